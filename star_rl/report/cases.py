"""Choose the tasks that the page shows whole: the best, the worst and those that changed, with their answers.

Titles of candidates and the end of each history are kept in a file beside the answers, so the page can be made
wherever the folder goes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.evaluation.compare import Evaluation
from star_rl.evaluation.metrics import FAILED
from star_rl.evaluation.runner import ledgers
from star_rl.failure import Failure
from star_rl.files import atomic_path
from star_rl.records import Item, Task
from star_rl.report.findings import Change, Findings, Found, key_of
from star_rl.report.model import ExampleRollout, ExampleTask, HistoryItem
from star_rl.report.viewer import WORDS, Panel, panel
from star_rl.scenarios.histories import Event
from star_rl.trajectory.view import Cutter

#: Tasks of each kind: best and worst of one method, gained and lost of each change, all together at most.
EXTREMES, CHANGED, MOST = 4, 8, 60
#: Characters on the page: of one method's answer to one task, and of all answers together.
ROOM, WHOLE = 40_000, 1_000_000
#: Titles and histories, beside the answers; latest items of a history that are kept.
CONTEXTS, LATEST = "contexts.parquet", 8
_TITLED = pa.list_(pa.struct([("item_id", pa.string()), ("title", pa.string())]))
_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("source", "scenario", "task_id")),
        *(pa.field(name, _TITLED, nullable=False) for name in ("candidates", "history")),
        pa.field("earlier", pa.int32(), nullable=False),
    ]
)
_HEAD = re.compile(r'\{"task_id": ("(?:[^"\\]|\\.)*"), "sample": (\d+)\b')


@dataclass(slots=True)
class ReportCase:
    """A task as the page shows it."""

    place: int  #: among the findings' tasks
    anchor: str  #: its id on the page
    about: ExampleTask
    ranks: dict[str, str]  #: method -> rank of the ground truth, in words
    panels: list[Panel] = field(default_factory=list)  #: of at most two methods, or of one before and after


@dataclass(slots=True)
class CaseGroup:
    """Cases of one kind; ``known`` are (anchor, task id) of tasks in an earlier group."""

    title: str
    words: str
    cases: list[ReportCase] = field(default_factory=list)
    known: list[tuple[str, str]] = field(default_factory=list)


#: One side of a case: its heading, and the evaluations that may hold its answer, each with the method's name there.
_Side = tuple[str, list[tuple[Evaluation, str]]]
#: Label of an evaluation, the method's name there, place of the task.
_Place = tuple[str, str, int]


def choose(found: Findings, made: Sequence[Change]) -> list[CaseGroup]:
    """Return groups of cases; answers are read from the folders as far as the page has room."""
    plan: list[tuple[CaseGroup, list[int], list[_Side]]] = []
    focus = _focus(found)
    if focus:
        sides: list[_Side] = [(one.name, one.sources) for one in focus]
        best, worst = _extremes(found, focus[0])
        name = focus[0].name
        against = "the mean of the other methods" if len(found.methods) > 1 else "its own mean"
        plan.append((CaseGroup(f"Best tasks of {name}", f"Where {name} is furthest above {against}."), best, sides))
        plan.append((CaseGroup(f"Worst tasks of {name}", f"Where {name} is furthest below {against}."), worst, sides))
    for one in made:
        for title, places in (("gained", one.gained), ("lost", one.lost)):
            words = f"The {min(CHANGED, len(places))} largest of {len(places):,}."
            group = CaseGroup(f"Tasks {title} by {one.method}, {one.before.label} to {one.after.label}", words)
            sides = [(ev.label, [(ev, one.method)]) for ev in (one.before, one.after)]
            plan.append((group, places[:CHANGED], sides))
    return _filled(found, [entry for entry in plan if entry[1]])


def _focus(found: Findings) -> list[Found]:
    """Return the best two methods that call a language model, else the best of all."""
    writers = [one for one in found.ordered if one.writes or one.figures["calls"]]
    return writers[:2] or found.ordered[:1]


def _extremes(found: Findings, one: Found) -> tuple[list[int], list[int]]:
    """Return places of its best and worst tasks, by its gain over the mean of the others, or over its own mean."""
    others = [other.values for other in found.methods.values() if other is not one]
    asked = np.isfinite(one.values)
    stack = np.array(others) if others else np.full((1, len(one.values)), np.nanmean(one.values))
    known = np.isfinite(stack)
    mean = np.where(known, stack, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    gain = np.where(asked, one.values - mean, 0.0)
    order = np.argsort(gain, kind="stable")
    best = [int(place) for place in order[::-1] if gain[place] > 0][:EXTREMES]
    return best, [int(place) for place in order if gain[place] < 0][:EXTREMES]


def _filled(found: Findings, plan: Sequence[tuple[CaseGroup, list[int], list[_Side]]]) -> list[CaseGroup]:
    """Fill the groups with cases; a task that stands in an earlier group is linked."""
    keys = {ev.label: {key_of(task) for task in ev.tasks} for ev in found.compared.folders}
    writers = {(ev.label, name) for one in found.methods.values() if one.writes for ev, name in one.sources}

    def where(own: list[tuple[Evaluation, str]], place: int) -> _Place | None:
        key = key_of(found.tasks[place])
        return next(((ev.label, name, place) for ev, name in own if key in keys[ev.label]), None)

    wanted = {spot for _, places, sides in plan for _, own in sides for place in places if (spot := where(own, place))}
    answers, about = _answers(found, wanted), _about(found, {place for _, places, _ in plan for place in places})
    done: dict[int, str] = {}
    left = WHOLE
    for group, places, sides in plan:
        for place in places:
            if place in done:
                group.known.append((done[place], found.tasks[place].task_id))
            elif len(done) < MOST:
                done[place] = f"case-{len(done)}"
                case = ReportCase(place, done[place], about[place], _ranks(found, place))
                group.cases.append(case)
                for heading, own in sides:
                    spot, room = where(own, place), min(ROOM, left)
                    cut = Cutter(room, f"the answers in {spot[0]}" if spot else "")
                    made = panel(heading, answers.get(spot) if spot else None, about[place], cut)
                    if not any((ev.label, name) in writers for ev, name in own):
                        made.faults, made.left_out["faults"] = [], 0
                    case.panels.append(made)
                    left -= room - max(0, int(cut.left))
    return [group for group, _, _ in plan]


def _ranks(found: Findings, place: int) -> dict[str, str]:
    words = {}
    for one in found.methods.values():
        if np.isfinite(one.values[place]):
            rank = int(one.ranks[place])
            words[one.name] = "failed" if rank == FAILED else f"rank {rank}" if rank else "not ranked"
    return words


def _about(found: Findings, places: Collection[int]) -> dict[int, ExampleTask]:
    """Return the tasks with titles and histories, from the first folder that has them."""
    by_key = {key_of(found.tasks[place]): place for place in places}
    read: dict[int, ExampleTask] = {}
    for ev in found.compared.folders:
        own = [task for task in ev.tasks if key_of(task) in by_key]
        for task, about in read_contexts(ev.folder, own).items():
            known = read.setdefault(by_key[key_of(task)], about)
            if about.titles and not known.titles:
                read[by_key[key_of(task)]] = about
    return read


def _answers(found: Findings, wanted: Collection[_Place]) -> dict[_Place, ExampleRollout]:
    """Read the first samples of the wanted answers, with their messages if the folder kept them."""
    read: dict[_Place, ExampleRollout] = {}
    for one in found.methods.values():
        for ev, name in one.sources:
            own = {found.tasks[place].task_id: place for *which, place in wanted if which == [ev.label, name]}
            for row in _rows(ev.folder, name, set(own)) if own else ():
                place = own[row["task_id"]]
                read[ev.label, name, place] = _rollout(row, int(one.ranks[place]))
    return read


def _rows(folder: Path, name: str, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """Lines of a method's answers to these tasks, sample 0."""
    for path in [path for path, settings in ledgers(folder / "answers") if settings.get("method") == name]:
        with open(path, encoding="utf-8", errors="replace") as handle:
            for line in handle:
                begins = _HEAD.match(line)
                if begins and (begins[2] != "0" or json.loads(begins[1]) not in wanted):
                    continue
                try:
                    row = json.loads(line)
                except ValueError:  # cut short by a kill
                    continue
                if isinstance(row, dict) and row.get("task_id") in wanted and not row.get("sample"):
                    yield row


def _rollout(row: dict[str, Any], rank: int) -> ExampleRollout:
    kept = row.get("trace") if isinstance(row.get("trace"), dict) else row
    messages = kept.get("messages") if isinstance(kept, dict) else None
    ranking = row.get("ranking")
    if ranking is None and isinstance(row.get("model_text"), str):
        from star_rl.trajectory import parse
        from star_rl.trajectory import ranking as ranking_of

        ranking = ranking_of(parse(row["model_text"]))
    said = [one for one in messages or () if isinstance(one, dict) and one.get("role") in ("assistant", "tool")]
    failure = Failure.from_json(row.get("failure"))
    return ExampleRollout(said, ranking, rank if rank > 0 else None, failure=str(failure or "")[:300])


def write_contexts(
    folder: Path, tasks: Sequence[Task], history_of: Callable[[Task], Sequence[Event]], items: Mapping[str, Item]
) -> None:
    """Write ``contexts.parquet`` beside the answers to these tasks."""

    def titled(ids: Sequence[str]) -> list[dict[str, str]]:
        return [{"item_id": one, "title": items[one].title[:WORDS] if one in items else ""} for one in ids]

    rows = []
    for task in tasks:
        history = [event[0] for event in history_of(task)]
        row: dict[str, Any] = {"source": task.source, "scenario": task.scenario, "task_id": task.task_id}
        row |= {"candidates": titled(task.candidates), "history": titled(history[-LATEST:])}
        rows.append(row | {"earlier": max(0, len(history) - LATEST)})
    with atomic_path(folder / CONTEXTS) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary, compression="zstd")


def read_contexts(folder: Path, tasks: Collection[Task]) -> dict[Task, ExampleTask]:
    """Return the tasks as the page shows them, without titles and histories if the folder keeps none.

    Raises:
        StarError: the file is damaged.
    """
    found = {
        key_of(task): ExampleTask(task.task_id, task.scenario, task.user_id, task.ground_truth, list(task.candidates))
        for task in tasks
    }
    file = folder / CONTEXTS
    if found and file.is_file():
        try:
            table = pq.read_table(file).cast(_SCHEMA)
        except (pa.ArrowInvalid, OSError, ValueError) as error:
            raise StarError(f"{file} holds no contexts ({error})", "delete it, or evaluate again") from error
        wanted = pa.array([task_id for _, _, task_id in found], pa.string())
        for row in table.filter(pc.is_in(table["task_id"], wanted)).to_pylist():
            about = found.get((row["source"], row["scenario"], row["task_id"]))
            if about is not None:
                about.titles = {one["item_id"]: one["title"] for one in row["candidates"] if one["title"]}
                about.history = [HistoryItem(one["item_id"], one["title"] or "") for one in row["history"]]
                about.earlier = row["earlier"]
    return {task: found[key_of(task)] for task in tasks}
