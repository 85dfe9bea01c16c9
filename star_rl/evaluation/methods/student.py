"""A student's checkpoint as a method: the policy loop that trained it, on an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from star_rl import fingerprints
from star_rl.errors import StarError
from star_rl.evaluation.methods.base import Method, Ranking, TaskContext
from star_rl.evaluation.methods.evidence import Evidence
from star_rl.evaluation.methods.registry import Spec
from star_rl.failure import Failure, Kind
from star_rl.files import fingerprint
from star_rl.own import code_of
from star_rl.prompts import Case, Memory
from star_rl.run import Run
from star_rl.trajectory import answer_faults, parse, ranking, required_phases

#: Options of the engine that decide what a student writes; the others decide how fast.
_DECIDE = ("kind", "max_model_len", "extra", "seed")
#: Whose notes a student is shown.
MEMORY = ("stage", "none", "own")
#: Sections of a recipe that decide the form in which its student is asked.
_FORM = ("memory", "prompt", "tools", "loop", "sft_set", "student")


class StudentMethod(Method):
    """A checkpoint through the policy loop.

    Args:
        model: Hugging Face folder.
        temperature: 0 is greedy.
        logprobs: keep the mean log-probability of the model's own tokens as its confidence.
        in_flight: rollouts at once; None for the recipe's, which are each replica's.
        engine: options over the recipe's ``engine.options``.
        seed: of the engine's draws, unless an option sets another, and of false evidence.
        evidence: what the tools answer from, see :class:`Evidence`.
        memory: the notes that are shown: of the run's ``stage``, ``none``, or the student's ``own``, for which it plays
            the interactions before each task itself.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        model: Path,
        temperature: float,
        top_p: float,
        logprobs: bool = False,
        in_flight: int | None = None,
        engine: Mapping[str, Any] | None = None,
        seed: int = 0,
        evidence: str = "true",
        memory: str = "stage",
    ) -> None:
        from star_rl.policy.loop import Budget

        config = run.config
        self.name, self.model, self.varies = name, model, temperature > 0
        self.in_flight, self._per_replica = in_flight or config["engine"]["in_flight"], in_flight is None
        self._memory, self._seed = memory, seed
        self._run, self._logprobs, self._evidence = run, logprobs, Evidence(run.store, evidence, seed)
        self.sampling = {"temperature": temperature, "top_p": top_p, "top_k": -1}
        self._budget = Budget(**config["loop"]["budget"])
        options = {"seed": seed, **config["engine"]["options"], **(engine or {})}
        self._engine_options = {**options, "logprobs": logprobs}
        self._required = required_phases(config["sft_set"]["setting"])
        self._stack = contextlib.AsyncExitStack()
        self._engine: Any = None
        self._tokenizer: Any = None

    @property
    def describe(self) -> dict[str, Any]:
        shown = {"prompt": asdict(self._run.prompt), "tools": self._run.config["tools"]}
        engine = {name: value for name, value in self._engine_options.items() if name in _DECIDE}
        if not self.varies:  # greedy: nothing is drawn
            del engine["seed"]
        return {
            "model": str(self.model.resolve()),
            "weights": fingerprints.of_model(self.model),
            "evidence": self._evidence.fingerprint,
            "student": fingerprint(shown),
            "budget": asdict(self._budget),
            "own": code_of(self._run.config),
            "environment": self._run.config["loop"].get("environment"),
            "logprobs": self._logprobs,
            **({} if self._memory == "stage" else {"memory": self._memory}),
            **self.sampling,
            **engine,
        }

    async def __aenter__(self) -> Method:
        from transformers import AutoTokenizer

        from star_rl.policy.engines import EngineOptions
        from star_rl.policy.replicas import open_engine

        options = EngineOptions(**self._engine_options)
        self._engine = await self._stack.enter_async_context(open_engine(self.model, options))
        if self._per_replica:
            self.in_flight, self._per_replica = self.in_flight * getattr(self._engine, "alive", 1), False
        self._tokenizer = AutoTokenizer.from_pretrained(str(self.model))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def widen(self) -> None:
        """Open the engine with the model's whole context, not with the recipe's limit for its student."""
        self._engine_options["max_model_len"] = None

    @property
    def opened(self) -> tuple[Any, Any]:
        """Engine and tokenizer, inside the block."""
        return self._engine, self._tokenizer

    async def rank(self, context: TaskContext) -> Ranking:
        from star_rl.policy.engines import within
        from star_rl.policy.loop import render_prompt, rollout
        from star_rl.policy.rollout_stats import FAILED
        from star_rl.prompts import student_prompt

        run, task = self._run, context.task
        if self._memory != "stage":
            context = replace(context, memory=await self._own_notes(context) if self._memory == "own" else None)
        case = context.case(run.prompt)
        messages = student_prompt(case, run.prompt, run.length).messages
        prompt = render_prompt(self._tokenizer, messages, run.tools)
        budget = within(self._budget, self._engine)
        toolbox = run.toolbox(case, self._evidence.of)
        result = await rollout(
            self._engine, self._tokenizer, prompt, toolbox, budget, self.sampling, environment=run.environment(task)
        )
        if result.stop in ("engine_error", "aborted"):
            raise StarError(f"the engine failed on task {task.task_id}: {result.error or result.stop}", "run again")
        counts, ids = result.counts, ranking(parse(result.model_text))
        failure = None if ids is not None else Failure("malformed", f"wrote no ranking ({result.stop})")
        if result.stop in FAILED:  # a store that fails is not the student's fault: the task is asked again
            kind: Kind = "endpoint" if result.stop == "tool_error" else "error"
            failure = Failure(kind, f"{result.stop}: {result.error}")
        own = [p for p, mine in zip(result.logprobs or (), result.response_mask, strict=False) if mine]
        return Ranking(
            ids,
            failure,
            well_formed=not answer_faults(result.answers, self._required),
            tool_calls=int(counts["tool_calls"]),
            calls=int(counts["turns"]),
            # Turns continue one context, so every token is read once: the prompt, and what the tools answered.
            tokens_in=len(prompt) + int(counts["tool_tokens"]),
            tokens_out=int(counts["model_tokens"]),
            tool_seconds=result.tool_seconds,
            confidence=sum(own) / len(own) if self._logprobs and own else None,
            trace={"messages": result.messages, "model_text": result.model_text},
        )

    async def _own_notes(self, context: TaskContext) -> Memory | None:
        """Play the interactions before the task; return the memory after them."""
        from star_rl.memory.play import counts_of, draw, play
        from star_rl.memory.student import NotesByStudent
        from star_rl.policy.engines import within
        from star_rl.policy.loop import render_prompt, rollout

        run, task, history, budget = self._run, context.task, context.history, within(self._budget, self._engine)

        async def write(case: Case, messages: Sequence[Mapping[str, str]]) -> str:
            prompt = render_prompt(self._tokenizer, messages, run.tools)
            toolbox = run.toolbox(replace(case, slots=None))
            return (await rollout(self._engine, self._tokenizer, prompt, toolbox, budget, self.sampling)).model_text

        counts = counts_of([len(history)], run.config["memory"]["interactions"])
        drawn = draw(run, task.user_id, history, counts, self._seed)
        played = play(NotesByStudent(write, run.prompt, run.length), run, task, history, drawn)
        made = [memory async for _, memory in played]
        return made[-1] if made else None


def make_student(run: Run, spec: Spec, seed: int, folder: Path) -> Method:
    """Make ``star`` (the run's GRPO checkpoint), ``star:sft`` (before GRPO) or ``star:FOLDER``, with ``temperature``,
    ``top_p``, ``evidence``, ``memory`` (see :class:`StudentMethod`), ``logprobs=on``, ``in_flight`` and options of the
    engine."""
    from star_rl.policy.engines import EngineOptions

    where = spec.argument or "grpo"
    model = run.folder / where / "final" if where in ("sft", "grpo") else Path(where)
    if not (model / "config.json").is_file():
        raise StarError(f"there is no checkpoint at {model}", "give star:FOLDER, star:sft or star:grpo")
    options = dict(spec.options)
    chosen = {name: options.pop(name, run.config["evaluate"][name]) for name in ("temperature", "top_p")}
    own = {"logprobs": bool(options.pop("logprobs", False)), "in_flight": options.pop("in_flight", None)}
    own |= {"evidence": options.pop("evidence", "true"), "memory": options.pop("memory", "stage")}
    if own["memory"] not in MEMORY:
        raise StarError(f"method {spec.text!r}: memory={own['memory']} is not known", f"one of {', '.join(MEMORY)}")
    spec.check((*chosen, *own, *EngineOptions.__dataclass_fields__))
    name = {"grpo": "star", "sft": "sft"}.get(where, f"star:{where}")
    name += "".join(f" {key}={value}" for key, value in spec.options.items() if key in (*chosen, "evidence", "memory"))
    return StudentMethod(_as_trained(run, model), name, model, **chosen, **own, engine=options, seed=seed)


def _as_trained(run: Run, model: Path) -> Run:
    """Return the run with the prompt, tools and loop of the run that trained a checkpoint, if it lies in another."""
    home = next((folder for folder in model.resolve().parents if (folder / "recipe.yaml").is_file()), None)
    if home is None or home == run.folder.resolve():
        return run
    trained = Run.open(home).config
    made = replace(run, config={**run.config, **{section: trained[section] for section in _FORM}})
    vars(made)["store"] = run.store  # a store is opened once
    return made
