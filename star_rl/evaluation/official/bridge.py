"""Any method behind a local socket, for agents that run in another interpreter: one JSON line in, one out.

An agent sends what the simulator's tool showed it. It becomes a context without a ground truth for the method's own
``rank``, so the method does not know where it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import ChainMap, Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from star_rl.errors import StarError
from star_rl.evaluation.methods import Method, Ranking, TaskContext, as_ranking
from star_rl.files import fingerprint
from star_rl.prompts import Event, Summary
from star_rl.records import Item, Task
from star_rl.sources import times
from star_rl.sources.agentrecbench import describe
from star_rl.sources.cleaning import clean_text

#: Longest line an agent may send: a user with tens of thousands of reviews stays below.
_LONGEST = 256 << 20
_STAMPS = ("timestamp", "date", "date_added", "date_updated")
_RATINGS = ("stars", "rating")
#: ``user id -> attributes``, empty where nothing is known.
UserOf = Callable[[str], Mapping[str, Any]]
#: ``(user id, history) -> summary`` of the older part, None if no summary is stored.
SummaryOf = Callable[[str, Sequence[Event]], Summary | None]


class Bridge:
    """Listens while its block runs; ``address`` is ``host:port``.

    One method is open at a time: asking for another closes it, so that two engines never share a machine's memory.

    Args:
        methods: by the name that an agent asks for.
        known: tasks that the agents may ask about; others get a name of their own and shuffled candidates.
        items: descriptions that stand before those of the simulator's tool, so that a prompt reads as in training.
        users: attributes of a user, which stand before those of the simulator's tool for the same reason.
        summaries: the stored summary of a user's history, if there is one (``Run.summary``).
        outside: makes the context of a known task without the simulator. Where it is given, methods that do not vary
            rank that too, and ``same`` counts equal answers.
        host, port: where to listen; port 0 = a free one.

    Attributes:
        heard: called after each answer with the method's name and whether it failed.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        known: Sequence[Task] = (),
        items: Mapping[str, Item] | None = None,
        users: UserOf | None = None,
        outside: Callable[[Task], TaskContext] | None = None,
        summaries: SummaryOf | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._methods, self._items, self._place = dict(methods), items or {}, (host, port)
        self._known = {_key(task.user_id, task.candidates): task for task in known}
        self._ids = {task.task_id for task in known}
        self._lock, self._stack, self._open = asyncio.Lock(), contextlib.AsyncExitStack(), ""
        self._server: asyncio.Server | None = None
        self.address = ""
        self.fault: StarError | None = None
        self._users, self._outside, self._summaries = users, outside, summaries
        self.heard: Callable[[str, bool], None] | None = None
        self.checked: Counter[str] = Counter()
        self.same: Counter[str] = Counter()

    async def __aenter__(self) -> Bridge:
        self._server = await asyncio.start_server(self._serve, *self._place, limit=_LONGEST)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        await self._stack.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            try:
                reply = await self._answer(json.loads(await reader.readline()))
            except StarError as error:
                self.fault = self.fault or error
                reply = {"error": str(error)}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reply = {"error": f"not understood: {type(error).__name__}: {error}"}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            pass  # an agent that gave up waiting; the simulator has counted its miss
        finally:
            writer.close()

    async def _answer(self, row: dict[str, Any]) -> dict[str, Any]:
        if "open" in row:
            await self._method(row["open"])
            return {"ready": row["open"]}
        method = await self._method(row["method"])
        context = self.read(row)
        try:
            ranking = as_ranking(await method.rank(context))
            if self._outside is not None and not method.varies and context.task.task_id in self._ids:
                other = as_ranking(await method.rank(self._outside(context.task)))
                self.checked[method.name] += 1
                self.same[method.name] += ranking.ids == other.ids
        except StarError:
            raise
        except Exception as error:  # a method may do anything; this task is its miss, and the rest go on
            self._tell(method, True)
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        self._tell(method, ranking.ids is None)
        return reply_of(ranking)

    def _tell(self, method: Method, failed: bool) -> None:
        if self.heard is not None:
            self.heard(method.name, failed)

    async def _method(self, name: str) -> Method:
        async with self._lock:
            chosen = name or next(iter(self._methods))
            if chosen not in self._methods:
                raise StarError(f"the bridge has no method {chosen!r}", f"it has {', '.join(self._methods)}")
            if chosen != self._open:
                await self._stack.aclose()
                self._stack, self._open = contextlib.AsyncExitStack(), ""
                await self._stack.enter_async_context(self._methods[chosen])
                self._open = chosen
            return self._methods[chosen]

    def read(self, row: Mapping[str, Any]) -> TaskContext:
        """Return what an agent sent as the context of a task."""
        events = events_of(row.get("reviews") or [])
        shown = {str(entry["item_id"]): _item(entry) for entry in row.get("items") or []}
        user, candidates = str(row["task"]["user_id"]), [str(item) for item in row["task"]["candidate_list"]]
        task = self._known.get(_key(user, candidates))
        if task is None:
            name = fingerprint([user, sorted(candidates)])
            sources = [str(entry["source"]) for entry in row.get("items") or [] if entry.get("source")]
            random.Random(name).shuffle(candidates := sorted(candidates))  # the order given betrays the truth
            cutoff = events[-1][1] + 1 if events else 0
            task = Task(name, next(iter(sources), "agentsociety"), "classic", user, tuple(candidates), "", cutoff)
        history = [event for event in events if event[1] < task.cutoff]
        seen = ChainMap(dict(self._items), shown) if shown else self._items
        about = (self._users(user) if self._users else {}) or _profile(row.get("user"))
        summary = self._summaries(user, history) if self._summaries else None
        return TaskContext(task, history, seen, user=about, texts=texts_of(row.get("reviews") or []), summary=summary)


def _key(user: str, candidates: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    return user, tuple(sorted(candidates))


def _item(row: Mapping[str, Any]) -> Item:
    """Return an item as the tables would hold it."""
    title, categories, attributes = describe(row, 500)
    labels = tuple(dict.fromkeys(label for label in map(clean_text, categories) if label))
    return Item(str(row["item_id"]), clean_text(title) or "Untitled", labels, attributes)


def _profile(row: Any) -> dict[str, Any]:
    """Return the user's attributes of the simulator's tool, without the id."""
    told = row if isinstance(row, Mapping) else {}
    return {str(name): value for name, value in told.items() if name != "user_id" and value not in (None, "", [], {})}


def texts_of(reviews: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """Return what the user wrote, by item and time; reviews without a time or without text are dropped."""
    stamps = seconds_of([_stamp(row) for row in reviews])
    found = zip(reviews, stamps, strict=True)
    return {
        (str(row["item_id"]), stamp): words
        for row, stamp in found
        if stamp is not None and isinstance(words := row.get("text"), str) and words
    }


def _stamp(row: Mapping[str, Any]) -> Any:
    return next((row[name] for name in _STAMPS if row.get(name) not in (None, "")), None)


def events_of(reviews: Sequence[Mapping[str, Any]]) -> list[Event]:
    """Return reviews as interactions, oldest first, equal times in the order given; those without a valid time are
    dropped."""
    found: list[Event] = []
    for row, stamp in zip(reviews, seconds_of([_stamp(row) for row in reviews]), strict=True):
        if stamp is not None:
            rating = next((row[name] for name in _RATINGS if row.get(name) not in (None, "")), None)
            found.append((str(row["item_id"]), stamp, None if rating is None else float(rating)))
    return sorted(found, key=lambda event: event[1])


def seconds_of(stamps: Sequence[Any]) -> list[int | None]:
    """Return times of any of the three domains as whole seconds."""
    if all(isinstance(stamp, int) for stamp in stamps):
        column = pa.array(stamps, pa.int64())
    else:
        column = pa.array([None if stamp is None else str(stamp) for stamp in stamps], pa.string())
    read: list[int | None] = times.seconds(column).to_pylist()
    return read


def reply_of(ranking: Ranking) -> dict[str, Any]:
    """Return an answer as the bridge sends it."""
    if ranking.ids is None:
        return {"error": str(ranking.failure or "no ranking")}
    return {"ranking": list(ranking.ids)}
