"""MARS as a method: the recipe's teacher, or with parts switched off."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.evaluation.methods.base import Method, Ranking, TaskContext
from star_rl.evaluation.methods.evidence import Evidence
from star_rl.evaluation.methods.registry import Spec
from star_rl.evaluation.paper import RULES
from star_rl.files import fingerprint
from star_rl.mars import Outcome, TeamOptions
from star_rl.own import code_of
from star_rl.run import Run
from star_rl.teacher import open_teacher
from star_rl.trajectory import faults, required_phases, to_messages

#: Options that say where a model is served: option -> (part of the teacher's options, field of it).
_SERVED = {
    "endpoint": ("chat", "endpoints"),
    "model": ("chat", "model"),
    "planner_endpoint": ("planner_chat", "endpoints"),
    "planner_model": ("planner_chat", "model"),
}


class TeacherMethod(Method):
    """MARS, by rules or on an endpoint; ``config`` is the recipe with the method's options in it."""

    varies = True

    def __init__(
        self,
        run: Run,
        name: str,
        config: Mapping[str, Any],
        seed: int,
        folder: Path,
        evidence: str = "true",
        memory: str = "stage",
    ) -> None:
        self.name, self._run, self._config, self._seed = name, run, config, seed
        self._forget = memory == "none"
        self._evidence = Evidence(run.store, evidence, seed)
        self._cache = folder / f"{name.replace(' ', '_').replace('/', '')}.sqlite"
        self._required = required_phases(config["sft_set"]["setting"])
        self._stack = contextlib.AsyncExitStack()
        self._team: Any = None

    @property
    def describe(self) -> dict[str, Any]:
        parts = {part: self._config[part] for part in ("teacher", "sft_set", "prompt", "tools")}
        forget = {"memory": "none"} if self._forget else {}
        return {
            "teacher": fingerprint([parts, code_of(parts), self._evidence.fingerprint]),
            "seed": self._seed,
            **forget,
        }

    async def __aenter__(self) -> Method:
        tools = partial(self._run.toolbox, evidence=self._evidence.of)
        teacher = open_teacher(self._run, self._config, self._seed, self._cache, tools=tools)
        opened = await self._stack.enter_async_context(teacher)
        self._team, self.in_flight = opened.team, opened.in_flight
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def rank(self, context: TaskContext) -> Ranking:
        case = (replace(context, memory=None) if self._forget else context).case(self._run.prompt)
        return ranking_of_outcome(await self._team.run(case, context.sample), self._required)


def ranking_of_outcome(outcome: Outcome, required: Sequence[str]) -> Ranking:
    """Return one pass of the teacher as a ranking."""
    return Ranking(
        None if outcome.failure else list(outcome.ranking),
        outcome.failure,
        well_formed=not faults(outcome.trajectory, required, own_text=False),
        tool_calls=len(outcome.trajectory.calls),
        calls=outcome.waiting,
        tokens_in=sum(step.prompt_tokens for step in outcome.steps),
        tokens_out=sum(step.completion_tokens for step in outcome.steps),
        trace={"messages": to_messages(outcome.trajectory)},
    )


def make_teacher(run: Run, spec: Spec, seed: int, folder: Path) -> Method:
    """Make ``teacher`` (or ``mars``) with ``planner=off``, ``reflector=off``, ``tools=off``, any option of the team,
    ``endpoint=``, ``model=``, ``planner_endpoint=``, ``planner_model=``, ``evidence=`` (see :class:`Evidence`),
    ``memory=none`` (no notes are shown) and ``strategy=``, the one that the rules trust in every run."""
    spec.no_argument()
    config = copy.deepcopy(dict(run.config))
    options = config["teacher"]["options"] = dict(config["teacher"]["options"])
    off, other = [], []
    spec.check((*TeamOptions.__dataclass_fields__, *_SERVED, "strategy", "evidence", "memory"))
    for key, value in spec.options.items():
        if key in _SERVED:
            part, field = _SERVED[key]
            options[part] = {**(options.get(part) or {}), field: [value] if field == "endpoints" else value}
            if key == "endpoint":
                config["teacher"]["backend"] = "llm"
            continue
        if key == "strategy":
            options["rules"] = {**(options.get("rules") or {}), "strategies": {value: 1.0}}
        elif key not in ("evidence", "memory"):
            options[key] = value
        if value is False:
            off.append(key)
        elif value is not True:
            other.append(f"{key}={value}")
    if spec.options.get("memory", "none") not in ("stage", "none"):
        raise StarError(f"method {spec.text!r}: memory={spec.options['memory']} is not known", "one of stage, none")
    if options.get("planner_chat") and config["teacher"]["backend"] != "llm":
        raise StarError(f"method {spec.text!r} has a planner's endpoint alone", "give endpoint= as well")
    if config["teacher"]["backend"] != "rules" and "strategy" in spec.options:
        raise StarError(f"method {spec.text!r}: a language model has no strategies", "leave strategy= out")
    name = f"{spec.name}-planner" if "planner_endpoint" in spec.options else spec.name
    name = RULES if config["teacher"]["backend"] == "rules" else name  # nobody may take it for the paper's
    name += "".join(f" w/o {part}" for part in off) + "".join(f" {part}" for part in other)
    return TeacherMethod(
        run, name, config, seed, folder, spec.options.get("evidence", "true"), spec.options.get("memory", "stage")
    )
