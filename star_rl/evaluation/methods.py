"""What can be judged: one interface for everything that ranks, and the names it is called by.

``rank(task, context) -> Ranking``. The task that a method is given has no ground truth, so no method can read the
answer by mistake. On the command line a method is ``name``, ``name:argument`` and ``name:key=value``, the latter as
often as wanted: ``random``, ``mars:planner=off:tools=off``, ``star:runs/quickstart/grpo/final:temperature=0``. Makers
are named, not imported: a method loads only what it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from star_rl.errors import StarError
from star_rl.evaluation import identity
from star_rl.evaluation.threads import Worker
from star_rl.mars.case import Case
from star_rl.records import Item, Task
from star_rl.scenarios.histories import Event


@dataclass(slots=True)
class Ranking:
    """One answer and what it cost. ``None`` = the method has no such thing, or it was not measured.

    Attributes:
        ids: best first, as it stands; ``None`` where there is none, which counts as a miss.
        failure: why there is none, in words.
        well_formed: of methods that write trajectories.
        tool_calls: look-ups in the evidence store.
        calls: calls of a language model that wait for one another.
        tokens_in, tokens_out: read and written by the language model, over all calls.
        seconds: where the method measures itself, else the runner does.
        tool_seconds: of these in tools.
        confidence: the model's own, higher = surer (mean log-probability of its tokens).
        trace: what is kept for reading, JSON (``messages``, ``model_text``).
    """

    ids: Sequence[str | None] | None
    failure: str = ""
    well_formed: bool | None = None
    tool_calls: int | None = None
    calls: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None
    tool_seconds: float | None = None
    confidence: float | None = None
    trace: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a method may see beside the task.

    Attributes:
        history: the user's interactions before the cutoff, oldest first: (item id, timestamp, rating).
        items: all items by id.
        sample: which sample of the task this is.
        user: attributes of the user.
        texts: what the user wrote, by item and time, where a simulator's tool showed it.
    """

    history: Sequence[Event]
    items: Mapping[str, Item] = field(repr=False, default_factory=dict)
    sample: int = 0
    user: Mapping[str, Any] = field(repr=False, default_factory=dict)
    texts: Mapping[tuple[str, int], str] = field(repr=False, default_factory=dict)

    def case(self, task: Task) -> Case:
        return Case.of(task, self.history, self.items, self.user, self.texts)


def blind(task: Task) -> Task:
    """The task without its answer."""
    return replace(task, ground_truth="")


class Method(ABC):
    """Anything that ranks. Use as an asynchronous context manager: engines and connections live inside the block.

    Attributes:
        name: as it stands in the tables.
        varies: whether a further sample of the same task may come out otherwise; if not, one is taken.
        in_flight: tasks worked on at once; times are measured only where it is 1.
        watch: told in a few words what the method is about while it gets ready; nobody listens where it is None.
        origin: what decides an answer beside ``describe``: the data and the code it was made of, told by who made it.
    """

    name = "method"
    varies = False
    in_flight = 1
    watch: Callable[[str], None] | None = None
    origin: Mapping[str, Any] = MappingProxyType({})

    @property
    def describe(self) -> dict[str, Any]:
        """The method's own settings that decide an answer, as plain data."""
        return {}

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides an answer, as plain data."""
        return {**self.origin, **self.describe}

    async def __aenter__(self) -> Method:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    @abstractmethod
    async def rank(self, task: Task, context: TaskContext) -> Ranking:
        """The method's answer to a task; the task carries no ground truth."""


class Yardstick(Method):
    """A plain object with ``name`` and ``rank(task, history) -> list[str]`` as a method (star_rl.baselines).

    It works in a thread of its own, so that one that hangs holds up nobody: after a timeout the thread is left to
    itself.
    """

    def __init__(self, inner: Any, options: Mapping[str, Any] | None = None) -> None:
        self._make: Callable[[], Any] = lambda: inner
        self.name, self._options = str(inner.name), dict(options or {})
        self._inner, self._worker = inner, Worker()

    @classmethod
    def later(cls, make: Callable[[], Any], name: str, options: Mapping[str, Any]) -> Yardstick:
        """Made, and trained where it learns, only when it is entered: one that has answered everything is not."""
        method = cls(_Name(name), options)
        method._make = make
        return method

    @property
    def describe(self) -> dict[str, Any]:
        return self._options

    async def __aenter__(self) -> Method:
        self._inner = self._make()
        return self

    async def rank(self, task: Task, context: TaskContext) -> Ranking:
        history = [event[0] for event in context.history]

        def work() -> Ranking:
            began = time.perf_counter()
            found = self._inner.rank(task, history)
            return replace(as_ranking(found), seconds=time.perf_counter() - began)

        try:
            return await self._worker.run(work)
        except asyncio.CancelledError:
            self._worker = Worker()
            raise


@dataclass(frozen=True, slots=True)
class _Name:
    """Stands where the object is not made yet."""

    name: str


class Workflow(Method):
    """An agent with ``async rank(case, sample)`` as a method (star_rl.baselines.agents).

    Its answer has ``ranking``, ``failure``, ``calls``, ``tokens_in``, ``tokens_out`` and ``messages``.
    """

    varies = True

    def __init__(
        self, inner: Any, in_flight: int = 1, chat: Any = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self.inner, self.name, self.in_flight, self._chat = inner, str(inner.name), in_flight, chat
        self._options = dict(options or {})

    @property
    def describe(self) -> dict[str, Any]:
        model = self._chat.describe if self._chat is not None else {}
        return {"class": type(self.inner).__qualname__, **self._options, **model}

    async def __aenter__(self) -> Method:
        if self._chat is not None:
            await self._chat.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._chat is not None:
            await self._chat.close()

    async def rank(self, task: Task, context: TaskContext) -> Ranking:
        said = await self.inner.rank(context.case(task), context.sample)
        made = as_ranking(said.ranking)
        return replace(
            made,
            failure=said.failure or made.failure,
            calls=said.calls,
            tokens_in=said.tokens_in,
            tokens_out=said.tokens_out,
            trace={"messages": list(said.messages)} if said.messages else None,
        )


def as_ranking(found: Any) -> Ranking:
    """What a method handed back as a ranking. A list is one; a string or anything else is a failure, and said.

    The official evaluator would look for the truth as a part of a string; an answer that is no list is a failure here.
    """
    if isinstance(found, Ranking):
        return found if found.ids is None else replace(as_ranking(found.ids), **_beside(found))
    if isinstance(found, (list, tuple)):
        return Ranking([_id(entry) for entry in found])
    if found is None:
        return Ranking(None, "returned nothing")
    return Ranking(None, f"returned a {type(found).__name__} where a list of ids is asked for")


def _beside(found: Ranking) -> dict[str, Any]:
    own = {name: _measured(kind, getattr(found, name)) for name, kind in _KINDS.items()}
    return {**own, "trace": found.trace, **({"failure": str(found.failure)} if found.failure else {})}


#: What stands beside an answer, and what it is.
_KINDS: dict[str, Callable[[float], Any]] = {
    "well_formed": bool,
    **dict.fromkeys(("tool_calls", "calls", "tokens_in", "tokens_out"), int),
    **dict.fromkeys(("seconds", "tool_seconds", "confidence"), float),
}


def _measured(kind: Callable[[float], Any], value: Any) -> Any:
    """A number of a user's method as plain data; ``None`` where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return kind(number) if math.isfinite(number) else None


def _id(entry: Any) -> str | None:
    """An entry that is no string matches nothing, and keeps its place."""
    if not isinstance(entry, str):
        return None
    return str(entry) if entry.isascii() else entry.encode("utf-8", "replace").decode("utf-8")


# ----------------------------------------------------------------------------------------------------------- the names


@dataclass(frozen=True, slots=True)
class Spec:
    """A method as the command line names it."""

    text: str
    name: str
    argument: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


_OPTION = re.compile(r":(?=[A-Za-z_][A-Za-z0-9_.]*=)")
_SWITCH = {"on": True, "off": False, "true": True, "false": False}


def parse_spec(text: str) -> Spec:
    """Read ``name[:argument][:key=value]..``; ``on`` and ``off`` are switches, numbers are numbers.

    Raises:
        StarError: there is no name, or a key stands twice.
    """
    head, *pairs = _OPTION.split(text)
    name, _, argument = head.partition(":")
    if not name or "=" in head:
        raise StarError(f"{text!r} names no method", "write name, name:argument or name:key=value")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key in options:
            raise StarError(f"method {text!r} gives {key} twice", "give it once")
        options[key] = _value(value)
    return Spec(text, name, argument, options)


def _value(text: str) -> Any:
    if text.lower() in _SWITCH:
        return _SWITCH[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


#: Yardsticks without a language model: ``Class(visible, seed=0, **options)``.
YARDSTICKS = {
    "random": "star_rl.baselines:Random",
    "popularity": "star_rl.baselines:Popularity",
    "item_knn": "star_rl.baselines:ItemKNN",
    "user_knn": "star_rl.baselines:UserKNN",
    "mf": "star_rl.baselines:MF",
    "lightgcn": "star_rl.baselines:LightGCN",
    "sasrec": "star_rl.baselines:SASRec",
}
#: Agent workflows over a chat client, named as in the paper's table 1.
AGENTS = ("base", "cot", "memory", "cot_memory", "baseline666", "dummy", "rechacker", "agent4rec")
#: Methods that are made by a function ``make(world, spec, seed, folder) -> Method``.
MAKERS = {
    "teacher": "launch.methods:teacher",
    "mars": "launch.methods:teacher",
    "star": "launch.methods:student",
    "python": "launch.methods:python",
    **dict.fromkeys(AGENTS, "launch.methods:agent"),
}
KNOWN = tuple(dict.fromkeys((*YARDSTICKS, *MAKERS)))


def load(place: str, name: str) -> Any:
    """What stands at ``module:attribute``.

    Raises:
        StarError: it is not there; names the methods that are.
    """
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise StarError(f"method {name} is not to be had here ({error})", f"known: {', '.join(KNOWN)}") from error


def make(text: str, world: Any, seed: int, folder: Any) -> Method:
    """Make a method by its name.

    Args:
        world: a run's data (``star_rl.run.Run``): ``run``, ``visible``, ``items``, ``store``, ``config``.
        seed: of everything that is drawn.
        folder: where a method may keep a cache.

    Raises:
        StarError: the name or an option is not known; names those that are.
    """
    spec = parse_spec(text)
    options = dict(spec.options)
    label = options.pop("name", None)
    spec = Spec(text, spec.name, spec.argument, options)
    if spec.name in YARDSTICKS:
        made = _yardstick(spec, world, seed)
    elif spec.name in MAKERS:
        made = load(MAKERS[spec.name], spec.name)(world, spec, seed, folder)
    else:
        raise StarError(f"there is no method {spec.name!r}", f"known: {', '.join(KNOWN)}")
    if label is not None:
        made.name = str(label)
    if spec.name != "random":  # which sees the candidates alone
        parts = ("interactions", "visible") if spec.name in YARDSTICKS else tuple(identity.DATA)
        made.origin = {**made.origin, "data": identity.of_data(world.run, parts)}
    return made


def _yardstick(spec: Spec, world: Any, seed: int) -> Method:
    kind = load(YARDSTICKS[spec.name], spec.name)
    if spec.argument:
        raise StarError(f"method {spec.name} takes no argument {spec.argument!r}", "give key=value")
    given = {"seed": seed, **spec.options}
    data = () if spec.name == "random" else (world.visible,)
    parameters = inspect.signature(kind).parameters
    try:
        inspect.Signature([value for key, value in parameters.items() if key != "progress"]).bind(*data, **given)
    except TypeError as error:
        raise StarError(f"method {spec.text!r}: {error}", "see the class's own options") from error

    def epochs(done: int, most: int) -> None:
        if method.watch is not None:
            method.watch(f"gets ready, epoch {done} of at most {most}")

    learns = {"progress": epochs} if "progress" in parameters else {}
    name = " ".join([spec.name, *(f"{key}={value}" for key, value in spec.options.items())])
    method = Yardstick.later(lambda: kind(*data, **given, **learns), name, {"class": kind.__qualname__, **given})
    return method
