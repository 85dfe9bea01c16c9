"""SFT sets for ms-swift: the student's prompt, then the teacher's trajectory as assistant and tool turns.

Five sets (paper, table 3): ``full``, ``no_tools``, ``no_planner``, ``no_reflector``, ``planner_only``. A
set is made of runs of a teacher that lacked the part. Where there are none, ``no_planner`` is derived from full
runs by leaving out the plan, and ``no_reflector`` from full runs that the reflector was content with.
``no_tools`` cannot be derived: thoughts that speak of answers would speak of nothing.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from star_rl.data_builders.reflections import Conversation, reflections
from star_rl.errors import StarError
from star_rl.files import atomic_path, fingerprint, sha256, write_json, write_text
from star_rl.mars.record import TeacherRun, read_runs
from star_rl.options import Count, Number, Size, Whole, options
from star_rl.pipeline.stage import Context
from star_rl.prompts import STUDENT_VERSION, Case, PromptOptions, estimate_tokens, student_prompt
from star_rl.records import Task
from star_rl.run import Run
from star_rl.tools import schemas_of
from star_rl.trajectory import CRITICAL, LACKING, PHASE_OF, Setting, Trajectory, faults, render, to_messages
from star_rl.trajectory.grammar import PLAN, REFLECTION

SETTINGS: tuple[Setting, ...] = get_args(Setting)
_ROWS = 256  # rows a row group: what is in memory at a time
_LISTED = 50  # ids of over-long samples named in the audit

_TEXTS = ("tools", "task_id", "source", "scenario")
_MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
SFT = pa.schema(
    [pa.field("messages", _MESSAGES, nullable=False), *(pa.field(name, pa.string(), nullable=False) for name in _TEXTS)]
)


@options
class SftOptions:
    """Options of an SFT set. All of them affect results.

    Attributes:
        prompt: the student's prompt; the parts that the setting lacks are switched off in it.
        per_task: distinct samples of one task at most, 0 = every hit, as in the paper.
        spread: the largest group of (source, scenario) holds at most this many times the smallest; 0 = as they come.
        limit: samples at most, 0 = all.
        max_tokens: longer samples (prompt, trajectory and answers) are left out and named (paper, table 4: 16,384).
        within: runs are kept whose truth stands in so many first places; 0 = all that ranked.
        seed: of the choice among a task's and a group's samples.
    """

    setting: Setting = "full"
    prompt: PromptOptions = field(default_factory=PromptOptions)
    per_task: Count = 0
    spread: Number = 0.0
    limit: Count = 0
    max_tokens: Size = 16384
    within: Count = 1
    seed: Whole = 0

    def __post_init__(self) -> None:
        if 0 < self.spread < 1:
            raise StarError(f"spread={self.spread} is not valid", "give 1 or more, or 0 for no balancing")

    @property
    def student(self) -> PromptOptions:
        """The prompt of a student without the part that the setting lacks."""
        if self.setting == "planner_only":
            return replace(self.prompt, scope="plan", tools=False)
        lacks = LACKING.get(self.setting, ())
        return replace(
            self.prompt,
            tools=self.prompt.tools and "tools" not in lacks,
            planner=self.prompt.planner and "planner" not in lacks,
            reflector=self.prompt.reflector and "reflector" not in lacks,
            scope="rank" if self.setting == "fast" else "trajectory",
        )


@dataclass(slots=True)
class _Sample:
    """A sample's part in memory while samples are chosen; its text is in the spool file."""

    row: int
    task_id: str
    group: str
    native: bool
    corrected: bool
    prompt_tokens: int
    tokens: int
    cut: int


def reason_against(run: TeacherRun, within: int = 1) -> str:
    """Return why a run is no training sample (paper, section 4.1); empty where it is one.

    ``failed_<kind>``; ``miss``: the truth stands behind place ``within``; ``malformed``: the grammar finds a fault;
    ``not_identical``: text to trajectory to text is not the same text.
    """
    if run.failure:
        return f"failed_{run.failure.kind}"
    if within and not 1 <= run.rank <= within:
        return "miss"
    team, trajectory = run.configuration["team"], run.trajectory
    lacks = {phase for part, phase in PHASE_OF.items() if not team.get(part, True)}
    if faults(trajectory, [phase for phase in CRITICAL if phase not in lacks], own_text=False):
        return "malformed"
    return "" if render(trajectory) == run.text else "not_identical"


def sample_of(run: TeacherRun, setting: str) -> tuple[Trajectory | None, bool, str]:
    """Return (trajectory, native, reason): native runs lacked the part, from others it is removed.

    ``reason`` says why a run is dropped: ``other_teacher``, ``corrected``, ``no_plan``.
    """
    team = run.configuration["team"]
    lacking = {part for part in ("planner", "reflector", "tools", "experts") if not team.get(part, True)}
    wanted = set(LACKING.get(setting, ()))
    trajectory = run.trajectory
    if setting == "planner_only":
        plans = trajectory.of(PLAN)
        return (Trajectory(plans[:1]), True, "") if plans and not lacking else (None, True, "no_plan")
    if lacking == wanted:
        return trajectory, True, ""
    if lacking or setting in ("no_tools", "fast"):
        return None, False, "other_teacher"
    if setting == "no_reflector" and run.corrected:
        return None, False, "corrected"
    gone = PLAN if setting == "no_planner" else REFLECTION
    return Trajectory([phase for phase in trajectory.phases if phase.tag != gone]), False, ""


def build(context: Context) -> dict[str, Any]:
    """Write the teacher's hits as Parquet for ms-swift, with an audit and a card."""
    world = Run(context.run, context.config)
    options = context.config["sft_set"]
    audit = build_sft(
        context.inputs["teach"] / "runs.jsonl",
        world.case,
        context.folder,
        SftOptions(
            setting=options["setting"],
            prompt=world.prompt,
            per_task=options["per_task"] or 0,
            spread=options["spread"],
            limit=options["limit"] or 0,
            max_tokens=options["max_tokens"],
            within=options["within"],
            seed=context.seed,
        ),
        world.length,
        reflections(world, options["within"]) if world.memories else (),
    )
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in audit["dropped"].items())
    lost = audit["hits"] - audit["kept"]
    warning = f"; WARNING: {lost:,} of {audit['hits']:,} hits left out" if 3 * lost > audit["hits"] else ""
    kept = f"{audit['kept']:,} of {audit['read']:,} runs kept"
    return {"summary": f"{kept} (dropped: {reasons or 'none'}){warning}", **audit}


def build_sft(
    runs: str | Path | Iterable[str | Path],
    case_of: Callable[[Task], Case],
    folder: str | Path,
    options: SftOptions | None = None,
    length: Callable[[str], int] = estimate_tokens,
    further: Iterable[Conversation] = (),
) -> dict[str, Any]:
    """Write ``sft.parquet``, ``audit.json`` and the card ``README.md`` into a folder.

    Args:
        runs: files or folders of the teacher's runs.
        case_of: the task as the teacher saw it (``star_rl.run.Run.case``).
        length: tokens of a text; the student's tokenizer makes the audit exact.
        further: conversations beside the runs.

    Returns:
        The audit.

    Raises:
        StarError: no sample is left; what was dropped and why is in the message.
    """
    options = options or SftOptions()
    target = Path(folder)
    dropped: Counter[str] = Counter()
    over_long: list[str] = []
    samples: list[_Sample] = []
    counts = {"read": 0, "hits": 0}
    seen: set[tuple[str, bool, str]] = set()

    def rows() -> Iterator[dict[str, Any]]:
        """Render every eligible run once."""
        for run in read_runs(runs):
            counts["read"] += 1
            reason = reason_against(run, options.within)
            trajectory, native = None, True
            if not reason:
                trajectory, native, reason = sample_of(run, options.setting)
            if trajectory is None:
                dropped[reason] += 1
                continue
            task, turns = run.task, to_messages(trajectory)
            same = task.task_id, native, fingerprint(turns)
            if options.per_task and same in seen:  # a limit keeps distinct ones
                counts["hits"] += 1
                dropped["duplicate"] += 1
                continue
            seen.add(same)
            prompt = student_prompt(case_of(task), options.student, length)
            yield from kept(Conversation(task, run.id, prompt, turns), native, run.corrected)
        for talk in further:
            counts["read"] += 1
            if talk.reason:
                dropped[talk.reason] += 1
            else:
                yield from kept(talk)

    def kept(talk: Conversation, native: bool = True, corrected: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the row of a conversation that is not too long."""
        counts["hits"] += 1
        task, prompt = talk.task, talk.prompt
        tokens = prompt.tokens + sum(length(turn["content"]) + 8 for turn in talk.turns)
        if tokens > options.max_tokens:
            dropped["over_long"] += 1
            over_long.append(talk.id)
            return
        group, row = f"{task.source}/{task.scenario}", len(samples)
        samples.append(_Sample(row, task.task_id, group, native, corrected, prompt.tokens, tokens, prompt.cut))
        yield {
            "messages": [*prompt.messages, *talk.turns],
            "tools": json.dumps(schemas_of(options.student.own)) if options.student.tools else "",
            "task_id": task.task_id,
            "source": task.source,
            "scenario": task.scenario,
        }

    with atomic_path(target / ".spool.parquet") as spool:
        with pq.ParquetWriter(spool, SFT, compression="zstd") as writer:
            rendered = rows()
            while batch := list(islice(rendered, _ROWS)):
                writer.write_table(pa.Table.from_pylist(batch, schema=SFT))
        chosen = _choose(samples, options, dropped)
        if not chosen:
            raise StarError(
                f"no sample is left for set {options.setting} of {counts['read']} runs (dropped: {dict(dropped)})",
                "teach more tasks, or loosen the filter",
            )
        _write(target / "sft.parquet", spool, {sample.row for sample in chosen}, options.student.tools)
    (target / ".spool.parquet").unlink()
    audit = _audit(options, counts, chosen, dropped, over_long, sha256(target / "sft.parquet"))
    write_json(target / "audit.json", audit)
    write_text(target / "README.md", card(audit))
    return audit


def _choose(samples: Sequence[_Sample], options: SftOptions, dropped: Counter[str]) -> list[_Sample]:
    """Choose native samples if there are any, then limit per task, balance over groups, limit in total."""
    native = [sample for sample in samples if sample.native]
    kept = native or list(samples)
    dropped["derived"] += len(samples) - len(kept)
    random.Random(options.seed).shuffle(kept)
    groups: dict[str, list[_Sample]] = defaultdict(list)
    of_task: Counter[str] = Counter()
    for sample in kept:
        of_task[sample.task_id] += 1
        if options.per_task and of_task[sample.task_id] > options.per_task:
            dropped["per_task"] += 1
        else:
            groups[sample.group].append(sample)
    if groups and options.spread:
        most = int(options.spread * min(map(len, groups.values())))
        for name, group in groups.items():
            dropped["balance"] += len(group) - len(group[:most])
            groups[name] = group[:most]
    # round robin, so that a limit keeps the balance
    rounds = zip_longest(*(groups[name] for name in sorted(groups)))
    chosen = [sample for group in rounds for sample in group if sample is not None]
    if options.limit and len(chosen) > options.limit:
        dropped["limit"] += len(chosen) - options.limit
        chosen = chosen[: options.limit]
    return chosen


def _write(path: Path, spool: Path, rows: set[int], tools: bool) -> None:
    """Write the chosen rows in the order of the runs (the trainer shuffles); no column ``tools`` without tools."""
    schema, start = SFT if tools else SFT.remove(SFT.get_field_index("tools")), 0
    with (
        atomic_path(path) as temporary,
        pq.ParquetFile(spool) as source,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for batch in source.iter_batches(_ROWS):
            mask = pa.array([start + offset in rows for offset in range(batch.num_rows)])
            start += batch.num_rows
            table = pa.Table.from_batches([batch.filter(mask)]).select(schema.names)
            if table.num_rows:
                writer.write_table(table.cast(schema))


def _audit(
    options: SftOptions,
    counts: Mapping[str, int],
    chosen: Sequence[_Sample],
    dropped: Counter[str],
    over_long: list[str],
    digest: str,
) -> dict[str, Any]:
    groups = Counter(sample.group for sample in chosen)
    return {
        "set": options.setting,
        **counts,
        "kept": len(chosen),
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "tasks": len({sample.task_id for sample in chosen}),
        "groups": dict(sorted(groups.items())),
        "native": sum(sample.native for sample in chosen),
        "corrected_share": round(sum(sample.corrected for sample in chosen) / len(chosen), 4),
        "tokens": {
            "prompt": percentiles([sample.prompt_tokens for sample in chosen]),
            "trajectory": percentiles([sample.tokens - sample.prompt_tokens for sample in chosen]),
            "total": percentiles([sample.tokens for sample in chosen]),
        },
        "history_cut_share": round(sum(sample.cut > 0 for sample in chosen) / len(chosen), 4),
        "over_long": {"count": len(over_long), "limit": options.max_tokens, "runs": over_long[:_LISTED]},
        "prompt_version": STUDENT_VERSION,
        "options": asdict(options),
        "sha256": digest,
    }


def percentiles(values: Sequence[int]) -> dict[str, int]:
    """min, p50, p90, p99 and max (nearest rank)."""
    ordered = sorted(values)
    last = len(ordered) - 1
    shares = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[round(share * last)] for name, share in shares.items()}


def card(audit: Mapping[str, Any]) -> str:
    """Return the dataset card as Markdown."""
    tokens = "\n".join(
        f"| tokens, {name} | {' | '.join(map(str, row.values()))} |" for name, row in audit["tokens"].items()
    )
    groups = "\n".join(f"| {name} | {count} |" for name, count in audit["groups"].items())
    dropped = ", ".join(f"{reason} {count}" for reason, count in audit["dropped"].items()) or "nothing"
    return f"""# SFT set `{audit["set"]}`

{audit["kept"]} trajectories of the teacher over {audit["tasks"]} tasks, of {audit["read"]} runs read. Each row is one
conversation: the student's prompt, then assistant turns with inline tool calls and the tools' answers as `tool` turns.
Train on the assistant turns alone (`loss_scale: default` in ms-swift).

| | min | p50 | p90 | p99 | max |
| --- | --- | --- | --- | --- | --- |
{tokens}

| source / scenario | rows |
| --- | --- |
{groups}

Sent back by the reflector and corrected: {audit["corrected_share"]:.1%}. Oldest history left out in
{audit["history_cut_share"]:.1%} of prompts.

Left out: {dropped}.

Prompt version {audit["prompt_version"]}, seed {audit["options"]["seed"]}, sha256 {audit["sha256"]}.
"""
