"""Choose the tasks that the page shows whole: the best, the worst and those that changed, with their answers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from star_rl.evaluation.compare import Evaluation
from star_rl.evaluation.metrics import FAILED
from star_rl.evaluation.runner import ledgers
from star_rl.failure import Failure
from star_rl.report import contexts
from star_rl.report.findings import Change, Findings, Found, key_of
from star_rl.report.model import ExampleRollout, ExampleTask
from star_rl.report.viewer import Panel, panel
from star_rl.trajectory.view import Cutter

#: Tasks of each kind: best and worst of one method, gained and lost of each change, all together at most.
EXTREMES, CHANGED, MOST = 4, 8, 60
#: Characters on the page: of one method's answer to one task, and of all answers together.
ROOM, WHOLE = 40_000, 1_000_000
_HEAD = re.compile(r'\{"task_id": ("(?:[^"\\]|\\.)*"), "sample": (\d+)\b')


@dataclass(slots=True)
class ReportCase:
    """A task as the page shows it.

    Attributes:
        place: among the findings' tasks.
        anchor: its id on the page.
        ranks: method -> rank of the ground truth, in words.
        panels: answers of at most two methods, or of one before and after.
    """

    place: int
    anchor: str
    about: ExampleTask
    ranks: dict[str, str]
    panels: list[Panel] = field(default_factory=list)


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


def anchors(groups: Iterable[CaseGroup]) -> dict[int, str]:
    """Return place of a task -> its anchor on the page."""
    return {case.place: case.anchor for group in groups for case in group.cases}


def _focus(found: Findings) -> list[Found]:
    """Return the best two methods that call a language model, else the best of all."""
    writers = [one for one in found.ordered if _follows(one) or one.figures["calls"]]
    return writers[:2] or found.ordered[:1]


def _follows(one: Found) -> bool:
    """Return whether it writes trajectories, so that a break of their grammar is a fault."""
    return one.figures["format_rate"] is not None


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
    writers = {(ev.label, name) for one in found.methods.values() if _follows(one) for ev, name in one.sources}

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
        for task, about in contexts.read(ev.folder, own).items():
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
