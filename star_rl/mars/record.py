"""One run of the teacher on disk: one versioned JSON object a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.failure import Failure
from star_rl.files import read_jsonl
from star_rl.mars.agents import Step
from star_rl.mars.team import Outcome
from star_rl.prompts import Slots
from star_rl.records import Task
from star_rl.trajectory import Trajectory, parse, render

FORMAT = 3
#: Counts of a step.
COSTS = ("prompt_tokens", "completion_tokens", "model_calls", "cached_calls")


@dataclass(slots=True)
class TeacherRun:
    """One pass of the teacher over one task.

    Attributes:
        task: with its answer, which the outcome filter needs.
        sample: number of the pass.
        text: the trajectory in the grammar, with tool responses; of a failed run, up to the failure.
        ranking: candidate ids, best first; empty if the run failed.
        failure: why there is no ranking; None where there is one.
        configuration, prompts, model, store: options and backends, versions of the prompts, served model, fingerprint
            of the evidence.
        slots: what the names in the text stand for (:meth:`star_rl.prompts.Slots.to_json`); None where they are ids.
        steps: of each agent: name, tag, round, seconds, tokens, calls, attempts and messages.
    """

    task: Task
    sample: int
    text: str
    ranking: list[str]
    failure: Failure | None = None
    configuration: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    store: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    slots: dict[str, Any] | None = None
    format: int = FORMAT

    @property
    def id(self) -> str:
        return run_id(self.task.task_id, self.sample)

    @property
    def rank(self) -> int:
        """Return the position of the ground truth from 1; 0 if it is not ranked."""
        return self.ranking.index(self.task.ground_truth) + 1 if self.task.ground_truth in self.ranking else 0

    @property
    def hit(self) -> bool:
        """Whether the ground truth is first, which the outcome filter keeps (paper, section 4.1)."""
        return self.rank == 1

    @property
    def trajectory(self) -> Trajectory:
        return parse(self.text)

    @property
    def in_ids(self) -> Trajectory:
        """Return the trajectory with ids in the place of slots."""
        candidates = tuple(dict.fromkeys(self.task.candidates))
        return parse(Slots(candidates=candidates, **self.slots).ids_in(self.text)) if self.slots else self.trajectory

    @property
    def corrected(self) -> bool:
        """Whether the reflector sent an expert back."""
        return any(step["round"] > 0 and step["agent"] != "Reflector" for step in self.steps)

    @property
    def tokens(self) -> int:
        """Return prompt and completion tokens of all agents."""
        return self.sum("prompt_tokens") + self.sum("completion_tokens")

    def sum(self, name: str) -> int:
        """Return the sum of a count of the steps, such as ``calls``, the tool calls."""
        return sum(step[name] for step in self.steps)


def run_id(task_id: str, sample: int) -> str:
    """Return the key of a run."""
    return f"{task_id}#{sample}"


def run_of(task: Task, sample: int, outcome: Outcome, identity: Mapping[str, Any]) -> TeacherRun:
    """Return the record of an outcome; ``identity`` as :func:`star_rl.mars.teach.identity_of` returns it."""
    return TeacherRun(
        task,
        sample,
        render(outcome.trajectory),
        list(outcome.ranking),
        outcome.failure,
        **{name: identity[name] for name in ("configuration", "prompts", "model", "store")},
        steps=[_step(step) for step in outcome.steps],
        seconds=round(outcome.seconds, 4),
        slots=outcome.slots.to_json() if outcome.slots else None,
    )


def _step(step: Step) -> dict[str, Any]:
    return {
        **{name: getattr(step, name) for name in ("agent", "tag", "round")},
        "seconds": round(step.seconds, 4),
        **{name: getattr(step, name) for name in COSTS},
        "calls": len(step.phase.calls),
        "attempts": step.attempts,
        "messages": step.messages,
    }


def to_json(run: TeacherRun) -> dict[str, Any]:
    """Return plain data, with derived fields to filter by."""
    plain = {name: getattr(run, name) for name in TeacherRun.__dataclass_fields__}
    plain["task"] = asdict(run.task) | {"candidates": list(run.task.candidates)}
    plain["failure"] = run.failure and run.failure.to_json()
    derived = {"id": run.id, "rank": run.rank, "hit": run.hit, "corrected": run.corrected}
    return {"format": run.format, **derived, **plain}


def from_json(value: Mapping[str, Any]) -> TeacherRun:
    """Return the run that :func:`to_json` wrote.

    Raises:
        StarError: the record has another format.
    """
    if value.get("format") != FORMAT:
        raise StarError(f"a run of format {value.get('format')!r}", f"this version reads format {FORMAT}; teach again")
    fields = {name: value[name] for name in TeacherRun.__dataclass_fields__}
    task = dict(value["task"])
    fields["task"] = Task(**{**task, "candidates": tuple(task["candidates"])})
    fields["failure"] = Failure.from_json(value["failure"])
    return TeacherRun(**fields)


def files_of(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the files of runs in files and folders.

    Raises:
        StarError: a path does not exist, or a folder holds no runs.
    """
    found: list[Path] = []
    for path in map(Path, [paths] if isinstance(paths, (str, Path)) else paths):
        files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
        if not files or not all(file.exists() for file in files):
            raise StarError(f"there are no runs of the teacher in {path}", "write some with: star-rl teach")
        found += files
    return found


def read_runs(paths: str | Path | Iterable[str | Path]) -> Iterator[TeacherRun]:
    """Yield the runs of files and folders; a last line cut short by a kill is skipped.

    Raises:
        StarError: a line is not a run.
    """
    for file in files_of(paths):
        try:
            for value in read_jsonl(file):
                yield from_json(value)
        except (ValueError, KeyError, TypeError) as error:
            raise StarError(f"{file} has an invalid line ({error})", "teach again into a new folder") from error
