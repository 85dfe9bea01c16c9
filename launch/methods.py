"""Methods that need a run's recipe: the teacher with its ablations, a student's checkpoint, agents, and one's own."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import importlib.util
import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launch.view import View
from star_rl.errors import StarError
from star_rl.evaluation import identity
from star_rl.evaluation.apart import Apart
from star_rl.evaluation.methods import Method, Ranking, Spec, TaskContext, Workflow, Yardstick, load
from star_rl.evaluation.paper import RULES
from star_rl.evaluation.scripted import ScriptedBackend, ScriptedChat, ScriptedPlanner, TimedTools
from star_rl.evaluation.threads import words
from star_rl.files import fingerprint
from star_rl.mars import Case, Outcome, RuleBackend, RuleOptions, Team, TeamOptions, strength_of
from star_rl.mars.llm import LlmOptions
from star_rl.records import Task
from star_rl.run import Run
from star_rl.teacher import open_teacher
from star_rl.trajectory import LACKING, faults, parse, ranking, required_phases, to_messages

#: Options of the teacher that are no fields of its team: where its models are served.
_SERVED = {"endpoint": ("chat", "endpoints"), "model": ("chat", "model")}
_PLANNER_SERVED = {
    "planner_endpoint": ("planner_chat", "endpoints"),
    "planner_model": ("planner_chat", "model"),
}
#: Options of the engine that decide what a student writes; the others decide how fast.
_DECIDE = ("kind", "max_model_len", "extra", "seed")


class Teacher(Method):
    """MARS, by rules or on an endpoint, as the recipe has it or with parts off.

    Args:
        world: a run's data and recipe.
        name: in the tables.
        config: the recipe with the method's options in it.
        folder: of the response cache.
    """

    varies = True

    def __init__(self, world: Run, name: str, config: Mapping[str, Any], seed: int, folder: Path) -> None:
        self.name, self._world, self._config, self._seed = name, world, config, seed
        self._cache = folder / f"{name.replace(' ', '_').replace('/', '')}.sqlite"
        self._required = required_phases(config["sft_set"]["setting"])
        self._stack = contextlib.AsyncExitStack()
        self._team: Any = None

    @property
    def describe(self) -> dict[str, Any]:
        parts = {part: self._config[part] for part in ("teacher", "sft_set", "prompt", "tools")}
        return {"teacher": fingerprint([parts, self._world.store.fingerprint]), "seed": self._seed}

    async def __aenter__(self) -> Method:
        opened = await self._stack.enter_async_context(open_teacher(self._world, self._config, self._seed, self._cache))
        self._team, self.in_flight = opened.team, opened.in_flight
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def rank(self, task: Task, context: TaskContext) -> Ranking:
        outcome = await self._team.run(context.case(task), context.sample)
        return ranking_of_outcome(outcome, self._required)


def ranking_of_outcome(outcome: Outcome, required: Sequence[str]) -> Ranking:
    """A run of the teacher as a ranking."""
    steps = outcome.steps
    return Ranking(
        None if outcome.failure else list(outcome.ranking),
        outcome.failure,
        well_formed=not faults(outcome.trajectory, required, own_text=False),
        tool_calls=len(outcome.trajectory.calls),
        calls=outcome.waiting,
        tokens_in=sum(step.prompt_tokens for step in steps),
        tokens_out=sum(step.completion_tokens for step in steps),
        trace={"messages": to_messages(outcome.trajectory)},
    )


class ScriptedTeacher(Method):
    """MARS on a student's engine with the rules' words; for latency (:mod:`star_rl.evaluation.scripted`).

    Args:
        trained_planner: the planner is asked with the student's prompt, as in MARS-Planner.
    """

    def __init__(self, world: Run, name: str, student: Student, seed: int, trained_planner: bool = False) -> None:
        self.name, self._world = name, world
        engine, tokenizer = student.opened
        options = dict(world.config["teacher"]["options"])
        rules = RuleBackend(RuleOptions(**{"seed": seed, **(options.get("rules") or {})}), strength_of(world.store))
        self._chat = ScriptedChat(engine, tokenizer, student.sampling)
        backend = ScriptedBackend(self._chat, rules, LlmOptions(**(options.get("llm") or {})))
        planner = ScriptedPlanner(self._chat, rules, world.prompt) if trained_planner else None
        fields = {key: value for key, value in options.items() if key in TeamOptions.__dataclass_fields__}
        lacks = LACKING.get(world.config["sft_set"]["setting"])
        fields = {"top": world.prompt.top, **fields, **({lacks: False} if lacks else {})}
        self._team = Team(backend, self._tools, TeamOptions(**fields), planner)
        at_once = ", independent experts at once" if self._team.options.concurrent else ""
        self.shows = f"each agent's own prompt, up to {backend.options.prompt_tokens:,} tokens of history{at_once}"
        self._required = required_phases(world.config["sft_set"]["setting"])
        self._timed: TimedTools | None = None

    def _tools(self, case: Case) -> TimedTools:
        self._timed = TimedTools(self._world.toolbox(case.candidates))
        return self._timed

    async def rank(self, task: Task, context: TaskContext) -> Ranking:
        self._chat.aside, self._timed = 0.0, None
        began = time.perf_counter()
        outcome = await self._team.run(context.case(task), context.sample)
        seconds = time.perf_counter() - began - self._chat.aside
        found = ranking_of_outcome(outcome, self._required)
        return replace(found, seconds=seconds, tool_seconds=self._timed.seconds if self._timed else 0.0)


def teacher(world: Run, spec: Spec, seed: int, folder: Path) -> Method:
    """``teacher`` (or ``mars``) with ``planner=off``, ``reflector=off``, ``tools=off``, any option of the team, and
    ``endpoint=``, ``model=``, ``planner_endpoint=``, ``planner_model=``."""
    _no_argument(spec)
    config = copy.deepcopy(dict(world.config))
    options = config["teacher"]["options"] = dict(config["teacher"]["options"])
    off, other = [], []
    for key, value in spec.options.items():
        served = {**_SERVED, **_PLANNER_SERVED}.get(key)
        if served:
            part, field = served
            options[part] = {**(options.get(part) or {}), field: [value] if field == "endpoints" else value}
            if key == "endpoint":
                config["teacher"]["backend"] = "llm"
            continue
        if key not in TeamOptions.__dataclass_fields__:
            known = (*TeamOptions.__dataclass_fields__, *_SERVED, *_PLANNER_SERVED)
            raise StarError(f"method {spec.text!r} has no option {key}", f"one of {', '.join(known)}")
        options[key] = value
        if value is False:
            off.append(key)
        elif value is not True:
            other.append(f"{key}={value}")
    if options.get("planner_chat") and config["teacher"]["backend"] != "llm":
        raise StarError(f"method {spec.text!r} has a planner's endpoint alone", "give endpoint= as well")
    name = f"{spec.name}-planner" if "planner_endpoint" in spec.options else spec.name
    name = RULES if config["teacher"]["backend"] == "rules" else name  # nobody is to take it for the paper's
    name += "".join(f" w/o {part}" for part in off) + "".join(f" {part}" for part in other)
    return Teacher(world, name, config, seed, folder)


class Student(Method):
    """A checkpoint through the policy loop, the one that trained it.

    Args:
        world: a run's data and recipe.
        name: in the tables.
        model: Hugging Face folder.
        temperature, top_p: of the engine; a temperature of 0 is greedy.
        logprobs: keep the mean log-probability of the model's own tokens as its confidence.
        in_flight: rollouts at once; None for the recipe's, which are each replica's.
        engine: options over the recipe's ``engine.options``.
        seed: of the engine's draws, where no option says another.
    """

    def __init__(
        self,
        world: Run,
        name: str,
        model: Path,
        temperature: float,
        top_p: float,
        logprobs: bool = False,
        in_flight: int | None = None,
        engine: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        from star_rl.policy.loop import Budget

        config = world.config
        self.name, self.model, self.varies = name, model, temperature > 0
        self.in_flight, self._each = in_flight or config["engine"]["in_flight"], in_flight is None
        self._world, self._logprobs = world, logprobs
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
        shown = {"prompt": asdict(self._world.prompt), "tools": self._world.config["tools"]}
        loop = {"budget": asdict(self._budget), **self.sampling, "logprobs": self._logprobs}
        engine = {name: value for name, value in self._engine_options.items() if name in _DECIDE}
        if not self.varies:  # greedy: nothing is drawn
            del engine["seed"]
        return {
            "model": str(Path(self.model).resolve()),
            "weights": identity.of_model(Path(self.model)),
            "evidence": self._world.store.fingerprint,
            "student": fingerprint(shown),
            **loop,
            **engine,
        }

    async def __aenter__(self) -> Method:
        from transformers import AutoTokenizer

        from star_rl.policy.engines import EngineOptions, open_engine

        options = EngineOptions(**self._engine_options)
        self._engine = await self._stack.enter_async_context(open_engine(self.model, options))
        if self._each:
            self.in_flight, self._each = self.in_flight * getattr(self._engine, "alive", 1), False
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

    async def rank(self, task: Task, context: TaskContext) -> Ranking:
        from star_rl.policy.engines import within
        from star_rl.policy.loop import render_prompt, rollout
        from star_rl.policy.rollout_stats import FAILED
        from star_rl.policy.sampler import record
        from star_rl.prompts import student_messages

        world = self._world
        messages = student_messages(task, list(context.history), context.items, world.prompt)
        prompt = render_prompt(self._tokenizer, messages, world.tools)
        toolbox = world.toolbox(task.candidates)
        budget = within(self._budget, self._engine)
        result = await rollout(self._engine, self._tokenizer, prompt, toolbox, budget, self.sampling)
        if result.stop in ("engine_error", "aborted"):
            raise StarError(f"the engine failed on task {task.task_id}: {result.error or result.stop}", "run again")
        found = ranking_of_record(record(task.task_id, context.sample, result, 0.0), self._required)
        own = [p for p, mine in zip(result.logprobs or (), result.response_mask, strict=False) if mine]
        confidence = sum(own) / len(own) if self._logprobs and own else None
        failure = f"{result.stop}: {result.error}" if result.stop in FAILED else found.failure
        if result.stop == "tool_error":  # the store gave out, and not the student: it is asked again
            failure = f"endpoint: {failure}"
        return replace(found, confidence=confidence, failure=failure)


def ranking_of_record(row: Mapping[str, Any], required: Sequence[str]) -> Ranking:
    """A rollout as the sampler writes it, as a ranking.

    Turns continue one context, so every token is read once: the prompt, and what the tools answered.
    """
    trajectory = parse(row["model_text"])
    found, counts = ranking(trajectory), row["counts"]
    return Ranking(
        found,
        "" if found is not None else f"wrote no ranking ({row['stop']})",
        well_formed=not faults(trajectory, required),
        tool_calls=int(counts["tool_calls"]),
        calls=int(counts["turns"]),
        tokens_in=int(row["prompt_tokens"] + counts["tool_tokens"]),
        tokens_out=int(counts["model_tokens"]),
        tool_seconds=row["tool_seconds"],
        trace={"messages": row["messages"], "model_text": row["model_text"]},
    )


def student(world: Run, spec: Spec, seed: int, folder: Path) -> Method:
    """``star`` (the run's GRPO checkpoint), ``star:sft`` (before GRPO) or ``star:FOLDER``, with ``temperature``,
    ``top_p``, ``logprobs=on``, ``in_flight`` and options of the engine."""
    where = spec.argument or "grpo"
    model = world.run / where / "final" if where in ("sft", "grpo") else Path(where)
    if not (model / "config.json").is_file():
        raise StarError(f"there is no checkpoint at {model}", "give star:FOLDER, star:sft or star:grpo")
    from star_rl.policy.engines import EngineOptions

    options = dict(spec.options)
    chosen = {name: options.pop(name, world.config["evaluate"][name]) for name in ("temperature", "top_p")}
    logprobs, in_flight = bool(options.pop("logprobs", False)), options.pop("in_flight", None)
    for key in options:
        if key not in EngineOptions.__dataclass_fields__:
            known = ("temperature", "top_p", "logprobs", "in_flight", *EngineOptions.__dataclass_fields__)
            raise StarError(f"method {spec.text!r} has no option {key}", f"one of {', '.join(known)}")
    name = {"grpo": "star", "sft": "sft"}.get(where, f"star:{where}")
    differs = {key: value for key, value in spec.options.items() if key in chosen}
    name += "".join(f" {key}={value}" for key, value in differs.items())
    return Student(world, name, model, **chosen, logprobs=logprobs, in_flight=in_flight, engine=options, seed=seed)


def agent(world: Run, spec: Spec, seed: int, folder: Path) -> Method:
    """An agent workflow of the paper's table 1, on ``endpoint=`` and ``model=`` or on the recipe's teacher endpoint;
    other options are the agent's own."""
    from star_rl.chat import ChatClient, ChatOptions

    _no_argument(spec)
    kinds: Mapping[str, Any] = load("star_rl.baselines.agents:AGENTS", spec.name)
    if spec.name not in kinds:
        raise StarError(f"there is no agent {spec.name}", f"known: {', '.join(kinds)}")
    options = dict(spec.options)
    served = dict(world.config["teacher"]["options"].get("chat") or {})
    if "endpoint" in options:
        served["endpoints"] = (options.pop("endpoint"),)
    if "model" in options:
        served["model"] = options.pop("model")
    if not served.get("endpoints"):
        raise StarError(f"method {spec.text!r} has no endpoint", f"give {spec.name}:endpoint=http://HOST:8000/v1")
    served["endpoints"] = tuple(served["endpoints"])
    chat = ChatClient(ChatOptions(**{"cache": str(folder / "agents.sqlite"), **served}))
    try:
        inner = kinds[spec.name](chat, reviews=_reviews(world), **options)
    except TypeError as error:
        raise StarError(f"method {spec.text!r}: {error}", "see the agent's own options") from error
    remark = {"remark": inner.remark} if inner.remark else {}
    return Workflow(inner, chat.options.concurrency, chat, {**spec.options, **remark})


def _reviews(world: Run) -> Any:
    """What users wrote, looked up a user at a time."""
    from star_rl.baselines.agents import Reviews
    from star_rl.records import read_table

    table = functools.cache(lambda: read_table(world.run / "tables", "interactions"))
    of_user = functools.lru_cache(maxsize=256)(lambda user: Reviews(table(), [user]))
    return lambda user, behaviour: of_user(user)(user, behaviour)


def python(world: Run, spec: Spec, seed: int, folder: Path) -> Method:
    """``python:FILE.py:NAME`` or ``python:MODULE:NAME``: a function ``NAME(world, seed, **options)`` that makes a
    :class:`Method`, or an object with ``name`` and ``rank(task, history)``."""
    place, _, attribute = spec.argument.rpartition(":")
    remedy = "give python:FILE.py:NAME"
    try:
        if place.endswith(".py"):
            found = importlib.util.spec_from_file_location(Path(place).stem, place)
            if found is None or found.loader is None:
                raise ImportError(place)
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        make = getattr(module, attribute)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise StarError(f"there is no method at {spec.argument!r} ({error})", remedy) from error
    except Exception as error:  # code of one's own may fail in any way
        raise StarError(f"{place} cannot be read ({words(error)})", "mend it") from error
    try:
        made = make(View(world), seed, **spec.options)
    except StarError:
        raise
    except Exception as error:
        raise StarError(f"{spec.text} cannot be made ({words(error)})", "mend it, or its options") from error
    file = getattr(module, "__file__", None)
    origin = {
        "place": attribute,
        "source": identity.of_file(Path(file)) if file else place,
        "evidence": world.store.fingerprint,
        "seed": seed,
        "options": dict(spec.options),
    }
    if isinstance(made, Method):
        made = Apart(made)
        made.origin = origin
        return made
    if not hasattr(made, "name") or inspect.iscoroutinefunction(getattr(made, "rank", None)):
        raise StarError(f"{spec.argument} makes no method", "it has a name and rank(task, history), or is a Method")
    method = Yardstick(made)
    method.origin = origin
    return method


def _no_argument(spec: Spec) -> None:
    if spec.argument:
        raise StarError(f"method {spec.name} takes no argument {spec.argument!r}", "give key=value")
