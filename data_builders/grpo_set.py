"""The GRPO set: training instances chosen by how often the SFT checkpoint solves them (paper, section 3.5).

Each instance is sampled 8 times from the checkpoint; success is HR@1. Instances never or always solved are dropped,
since a group without spread has no advantage. The others are easy (6-7 successes), medium (3-5) or hard (1-2) and
composed 3:4:3 to the requested total. A bucket that is too small stays short, and the audit says by how much;
``total="max"`` asks for the largest total that all buckets allow.

The output is what verl's ``RLHFDataset`` reads: one Parquet row an instance (:data:`SCHEMA`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_rl.data_builders.difficulty import count_successes, read_records
from star_rl.errors import StarError
from star_rl.files import atomic_path, write_json
from star_rl.pipeline.stage import Context
from star_rl.records import Task
from star_rl.run import Run
from star_rl.trajectory import CRITICAL, required_phases

AGENT, ABILITY = "star_agent", "recommendation"
#: Every row names every tool: Arrow unifies structs, so a key that only some rows had would be null in the others.
TOOLS = ("UserCF", "ItemCF")
RATIO = {"easy": 3, "medium": 4, "hard": 3}

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_TOOL = pa.struct([("create_kwargs", pa.struct([("task_id", pa.string())]))])
SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("agent_name", pa.string()),
        ("prompt", pa.list_(_MESSAGE)),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [
                    ("index", pa.int64()),
                    ("split", pa.string()),
                    ("task_id", pa.string()),
                    ("scenario", pa.string()),
                    ("user_id", pa.string()),
                    ("candidates", pa.list_(pa.string())),
                    ("difficulty", pa.string()),
                    ("successes", pa.int64()),
                    ("required", pa.list_(pa.string())),
                    ("top", pa.int64()),
                    ("need_tools_kwargs", pa.bool_()),
                    ("tools_kwargs", pa.struct([(tool, _TOOL) for tool in TOOLS])),
                ]
            ),
        ),
    ]
)

Messages = Sequence[Mapping[str, str]]
Prompts = Callable[[Task], Messages]


@dataclass(frozen=True, slots=True)
class GrpoSetOptions:
    """How a set is composed.

    Affects results:
        total: instances in all, or ``max`` for the largest total that the buckets allow.
        samples: responses per instance (paper: 8).
        bounds: bucket -> (fewest, most) successes; None = the paper's for 8, the same shares for other ``samples``.
        ratio: bucket -> parts (paper: 3:4:3).
        seed: which instances are taken where a bucket holds more than needed.
        required: phases that the reward asks for; an ablated student writes fewer.
        top: ids that the prompt asks for, None for all candidates.
    """

    total: int | str = "max"
    samples: int = 8
    bounds: Mapping[str, tuple[int, int]] | None = None
    ratio: Mapping[str, int] = field(default_factory=lambda: dict(RATIO))
    seed: int = 0
    required: tuple[str, ...] = CRITICAL
    top: int | None = None


@dataclass(slots=True)
class GrpoSet:
    """Rows as verl reads them (:data:`SCHEMA`), and what was kept, dropped and missing."""

    rows: list[dict[str, Any]]
    audit: dict[str, Any]


def bounds_for(samples: int) -> dict[str, tuple[int, int]]:
    """Return the (fewest, most) successes of each bucket: 6-7, 3-5, 1-2 of 8; else the same shares, rounded up.

    Raises:
        StarError: fewer than 4 samples cannot tell three buckets apart.
    """
    if samples < 4:
        raise StarError(f"{samples} samples per instance cannot tell three difficulties apart", "sample 4 or more")
    easy, medium = -(-6 * samples // 8), -(-3 * samples // 8)
    return {"easy": (easy, samples - 1), "medium": (medium, easy - 1), "hard": (1, medium - 1)}


def compose(total: int, ratio: Mapping[str, int] = RATIO) -> dict[str, int]:
    """Split a total by parts, each rounded to the nearest and the total kept (largest remainders).

    >>> compose(486)
    {'easy': 146, 'medium': 194, 'hard': 146}
    """
    parts = sum(ratio.values())
    counts = {name: total * share // parts for name, share in ratio.items()}
    by_remainder = sorted(ratio, key=lambda name: -(total * ratio[name] % parts))  # stable: ties to the first named
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def largest_total(available: Mapping[str, int], ratio: Mapping[str, int] = RATIO) -> int:
    """Return the largest total whose composition every bucket can fill."""
    parts = sum(ratio.values())
    # rounding adds less than one to a bucket, so no total beyond this can fit
    total = min((available.get(name, 0) + 1) * parts // share for name, share in ratio.items() if share)
    while total and any(available.get(name, 0) < count for name, count in compose(total, ratio).items()):
        total -= 1
    return total


def build(context: Context) -> dict[str, Any]:
    """Write ``train.parquet``, sampled tasks composed 3:4:3 by difficulty, and ``valid.parquet``."""
    run = Run(context.run, context.config)
    options = GrpoSetOptions(
        total=context.config["grpo_set"]["total"],
        samples=context.config["sample"]["n"],
        seed=context.seed,
        required=required_phases(context.config["sft_set"]["setting"]),
        top=context.config["prompt"]["top"],
    )
    by_id = {task.task_id: task for task in run.tasks("train")}
    records = list(read_records(context.inputs["sample"] / "rollouts.jsonl"))
    tasks = [by_id[name] for name in dict.fromkeys(record["task_id"] for record in records)]
    made = build_grpo(records, tasks, run.messages, options)
    write(context.folder, made)
    valid = rows_for(run.tasks("valid")[: context.config["grpo_set"]["validation"]], run.messages, "valid", options)
    if valid:
        write(context.folder, GrpoSet(valid, {"total": len(valid)}), "valid")
    taken = ", ".join(f"{name} {count}" for name, count in made.audit["taken"].items())
    short = sum(made.audit["shortfall"].values())
    return {
        "summary": f"{made.audit['total']} instances ({taken}) of {made.audit['rated']:,} rated"
        + (f", {short} short" if short else ""),
        **made.audit,
    }


def build_grpo(
    records: Iterable[Mapping[str, Any]],
    tasks: Iterable[Task],
    prompts: Prompts,
    options: GrpoSetOptions | None = None,
    split: str = "train",
) -> GrpoSet:
    """Compose a GRPO set from sampled rollouts. Pure: the same input gives the same rows in the same order.

    Args:
        records: rollouts with ``task_id``, ``sample``, ``stop`` and ``model_text``.
        tasks: the instances that were sampled.
        prompts: makes the messages of a task; called for the chosen instances alone.

    Raises:
        StarError: an option out of range, a faulty task, or a record that does not belong.
    """
    options = options or GrpoSetOptions()
    bounds = _checked(options)
    by_id = _by_id(tasks)
    successes, left_out = count_successes(records, by_id, options.samples)
    bucket_of = {task_id: name for task_id, count in successes.items() if (name := _bucket(count, bounds)) is not None}
    buckets: dict[str, list[str]] = {name: [] for name in bounds}
    for task_id, name in bucket_of.items():
        buckets[name].append(task_id)
    available = {name: len(entries) for name, entries in buckets.items()}
    total = largest_total(available, options.ratio) if options.total == "max" else int(options.total)
    wanted = compose(total, options.ratio)
    chosen = [
        task_id
        for name, entries in buckets.items()
        for task_id in sorted(entries, key=lambda entry: _lot(options.seed, entry))[: wanted[name]]
    ]
    chosen.sort(key=lambda entry: _lot(options.seed, entry))
    rows = [
        row(
            by_id[task_id],
            prompts(by_id[task_id]),
            index,
            split,
            bucket_of[task_id],
            successes[task_id],
            options,
        )
        for index, task_id in enumerate(chosen)
    ]
    taken = Counter(bucket_of[task_id] for task_id in chosen)
    audit = {
        "requested": options.total,
        "total": len(rows),
        "samples": options.samples,
        "seed": options.seed,
        "ratio": dict(options.ratio),
        "bounds": {name: list(bound) for name, bound in bounds.items()},
        "tasks": len(by_id),
        "rated": len(successes),
        "wanted": wanted,
        "available": available,
        "taken": {name: taken[name] for name in bounds},
        "shortfall": {name: wanted[name] - taken[name] for name in bounds},
        "unused": {name: available[name] - taken[name] for name in bounds},
        "dropped": {
            "never_solved": sum(count == 0 for count in successes.values()),
            "always_solved": sum(count == options.samples for count in successes.values()),
            "outside_bounds": sum(
                0 < count < options.samples and task_id not in bucket_of for task_id, count in successes.items()
            ),
            "incomplete": left_out["incomplete"],
            "not_sampled": left_out["not_sampled"],
        },
        "records": {"twice": left_out["twice"], "failed": left_out["failed"]},
        "hr1": sum(successes.values()) / (options.samples * len(successes)) if successes else 0.0,
        "histogram": _histogram(by_id, successes, bucket_of, set(chosen), options.samples),
    }
    return GrpoSet(rows, audit)


def row(
    task: Task,
    messages: Messages,
    index: int,
    split: str,
    difficulty: str = "unrated",
    successes: int = -1,
    options: GrpoSetOptions | None = None,
) -> dict[str, Any]:
    """Return one row of :data:`SCHEMA`; ``unrated`` and -1 for an instance without samples (validation)."""
    options = options or GrpoSetOptions()
    prompt = [{"role": message["role"], "content": message["content"]} for message in messages]
    if not prompt or prompt[-1]["role"] != "user":
        raise StarError(f"the prompt of task {task.task_id} does not end with the user's message", "build it again")
    return {
        "data_source": task.source,
        "agent_name": AGENT,
        "prompt": prompt,
        "ability": ABILITY,
        "reward_model": {"style": "rule", "ground_truth": task.ground_truth},
        "extra_info": {
            "index": index,
            "split": split,
            "task_id": task.task_id,
            "scenario": task.scenario,
            "user_id": task.user_id,
            "candidates": list(task.candidates),
            "difficulty": difficulty,
            "successes": successes,
            "required": list(options.required),
            "top": options.top,
            "need_tools_kwargs": True,
            "tools_kwargs": {tool: {"create_kwargs": {"task_id": task.task_id}} for tool in TOOLS},
        },
    }


def rows_for(
    tasks: Iterable[Task], prompts: Prompts, split: str, options: GrpoSetOptions | None = None
) -> list[dict[str, Any]]:
    """Return the rows of unrated tasks, a validation set, in the order given."""
    by_id = _by_id(tasks)
    return [row(task, prompts(task), index, split, options=options) for index, task in enumerate(by_id.values())]


def write(folder: str | Path, grpo_set: GrpoSet, name: str = "train") -> Path:
    """Write ``<name>.parquet`` and ``<name>.audit.json``, each whole or not at all; returns the Parquet file.

    Raises:
        StarError: there are no rows, or the folder cannot be written.
    """
    target = Path(folder) / f"{name}.parquet"
    if not grpo_set.rows:
        raise StarError(
            f"no instance is left for {target}: {json.dumps(grpo_set.audit.get('available', {}))}",
            "sample more instances, raise the temperature, or train the checkpoint further",
        )
    table = pa.Table.from_pylist(grpo_set.rows, schema=SCHEMA)
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    write_json(target.with_name(f"{name}.audit.json"), grpo_set.audit)
    return target


def _checked(options: GrpoSetOptions) -> dict[str, tuple[int, int]]:
    total = options.total
    if total != "max" and (not isinstance(total, int) or isinstance(total, bool) or total < 1):
        raise StarError(f"total={total!r} is not a size", "give a positive number, or max")
    bounds = dict(options.bounds) if options.bounds is not None else bounds_for(options.samples)
    if set(bounds) != set(options.ratio) or any(share < 0 for share in options.ratio.values()):
        raise StarError(
            f"ratio={dict(options.ratio)} does not fit the buckets {sorted(bounds)}", "name each bucket once"
        )
    if not any(options.ratio.values()):
        raise StarError("ratio has no part above 0", "give, for example, 3:4:3")
    taken: set[int] = set()
    for name, (low, high) in bounds.items():
        values = set(range(low, high + 1))
        if not 1 <= low <= high <= options.samples - 1 or taken & values:
            raise StarError(
                f"bounds {name}={low}-{high} are empty, overlap or hold 0 or {options.samples}",
                f"give ranges apart from each other within 1 to {options.samples - 1}",
            )
        taken |= values
    return {name: bounds[name] for name in options.ratio}


def _by_id(tasks: Iterable[Task]) -> dict[str, Task]:
    by_id: dict[str, Task] = {}
    for task in tasks:
        if task.task_id in by_id:
            raise StarError(f"task {task.task_id} is there twice", "give every instance an id of its own")
        if not task.ground_truth or task.ground_truth not in task.candidates:
            raise StarError(
                f"the ground truth {task.ground_truth!r} of task {task.task_id} is not among its candidates",
                "build the tasks again",
            )
        by_id[task.task_id] = task
    return by_id


def _bucket(successes: int, bounds: Mapping[str, tuple[int, int]]) -> str | None:
    return next((name for name, (low, high) in bounds.items() if low <= successes <= high), None)


def _lot(seed: int, task_id: str) -> bytes:
    """Return a sort key that depends on seed and instance alone, so that other instances do not change the choice."""
    return hashlib.blake2b(f"{seed}/{task_id}".encode(errors="surrogatepass"), digest_size=16).digest()


def _histogram(
    tasks: Mapping[str, Task],
    successes: Mapping[str, int],
    bucket_of: Mapping[str, str],
    chosen: set[str],
    samples: int,
) -> list[dict[str, Any]]:
    """Count, per source and scenario, instances by successes (0 .. samples) and taken ones by bucket."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for task_id, count in successes.items():
        task = tasks[task_id]
        group = groups.setdefault(
            (task.source, task.scenario),
            {"source": task.source, "scenario": task.scenario, "successes": [0] * (samples + 1), "taken": Counter()},
        )
        group["successes"][count] += 1
        if task_id in chosen:
            group["taken"][bucket_of[task_id]] += 1
    return [{**group, "taken": dict(sorted(group["taken"].items()))} for _, group in sorted(groups.items())]
