"""The GRPO set: training instances chosen by how often the SFT checkpoint solves them (paper, section 3.5).

Each instance is sampled 8 times from the checkpoint; success is HR@1. Instances never or always solved are dropped,
since a group without spread has no advantage. The others are easy (6-7 successes), medium (3-5) or hard (1-2) and
composed 3:4:3 to the requested total. A bucket that is too small stays short, and the audit says by how much;
``total="max"`` asks for the largest total that all buckets allow. With ``fill`` the other buckets fill the total.

The output is what verl's ``RLHFDataset`` reads: one Parquet row an instance (:data:`SCHEMA`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from star_rl.data_builders.difficulty import RATIO, bounds_for, compose, largest_total
from star_rl.errors import StarError
from star_rl.files import atomic_path, read_jsonl, write_json
from star_rl.memory.follow_up import REQUIRED, follow_up_of, messages_of, reflections
from star_rl.options import Size, Whole, options
from star_rl.pipeline.stage import Context
from star_rl.policy.rollout_stats import FAILED
from star_rl.prompts import Slots
from star_rl.records import Task
from star_rl.run import Run
from star_rl.trajectory import CRITICAL, parse, ranking, required_phases

AGENT, ABILITY = "star_agent", "recommendation"
#: For verl's own tool loop. Every row names both: Arrow unifies structs, so a key that only some rows had would be null
#: in the others.
TOOLS = ("UserCF", "ItemCF")

_TEXT, _NUMBER = pa.string(), pa.int64()
_TOOL = pa.struct({"create_kwargs": pa.struct({"task_id": _TEXT})})
_INFO = {
    "index": _NUMBER,
    "split": _TEXT,
    "task_id": _TEXT,
    "scenario": _TEXT,
    "user_id": _TEXT,
    "candidates": pa.list_(_TEXT),
    "slots": pa.struct({"user": _TEXT, "record": pa.list_(_TEXT), "together": _NUMBER}),  # null for a prompt with ids
    "difficulty": _TEXT,
    "successes": _NUMBER,
    "required": pa.list_(_TEXT),
    "follow_up": _TEXT,  # null for a ranking task
    "top": _NUMBER,
    "need_tools_kwargs": pa.bool_(),
    "tools_kwargs": pa.struct(dict.fromkeys(TOOLS, _TOOL)),
}
SCHEMA = pa.schema(
    {
        "data_source": _TEXT,
        "agent_name": _TEXT,
        "prompt": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),
        "ability": _TEXT,
        "reward_model": pa.struct({"style": _TEXT, "ground_truth": _TEXT}),
        "extra_info": pa.struct(_INFO),
    }
)

Row = dict[str, Any]
Messages = Sequence[Mapping[str, str]]
Prompts = Callable[[Task], Messages]
SlotsOf = Callable[[Task], Slots | None]


@options
class GrpoSetOptions:
    """How a set is composed. All options affect results.

    Attributes:
        total: instances in all, or ``max`` for the largest total that the buckets allow.
        fill: where a bucket is short, the others fill the total; with ``max``, every instance is taken.
        samples: responses per instance (paper: 8); fewer than 4 cannot tell three difficulties apart.
        seed: which instances are taken where a bucket holds more than needed.
        required: phases that the reward asks for; an ablated student writes fewer.
        top: ids that the prompt asks for, None for all candidates.
    """

    total: Literal["max"] | Size = "max"
    fill: bool = False
    samples: Annotated[int, Field(ge=4, strict=True)] = 8
    seed: Whole = 0
    required: tuple[str, ...] = CRITICAL
    top: int | None = None


def read_records(path: Path) -> Iterator[Row]:
    """Read the sampler's rollouts, one JSON line each.

    Raises:
        StarError: the file is missing, or a line holds no rollout.
    """
    if not path.is_file():
        raise StarError(f"there are no rollouts at {path}", "sample the checkpoint first: star-rl sample")
    for record in read_jsonl(path):
        if not isinstance(record, dict):
            raise StarError(f"{path} holds {str(record)[:40]}, which is no rollout", "give the sampler's output")
        yield record


def solved(record: Mapping[str, Any], task: Task) -> bool | None:
    """Return whether a rollout is a success (HR@1), None where an engine or a tool failed (``stop`` in FAILED).

    Raises:
        StarError: the record has no ``model_text``.
    """
    if record.get("stop") in FAILED:
        return None
    if "model_text" not in record:
        raise StarError(f"a rollout of task {task.task_id} has no model_text", "sample again")
    text = record["model_text"]
    found = ranking(parse(text if isinstance(text, str) else ""))
    return found is not None and found[:1] == [task.ground_truth]


def build(context: Context) -> Row:
    """Write ``train.parquet``, sampled tasks composed 3:4:3 by difficulty, and ``valid.parquet``."""
    run = Run(context.run, context.config)
    options = GrpoSetOptions(
        total=context.config["grpo_set"]["total"],
        fill=context.config["grpo_set"]["fill"],
        samples=context.config["sample"]["n"],
        seed=context.seed,
        required=required_phases(context.config["sft_set"]["setting"]),
        top=context.config["prompt"]["top"],
    )
    trained = run.tasks("train")
    by_id = {task.task_id: task for task in trained}

    def slots_of(task: Task) -> Slots | None:
        return run.case(task).slots

    if run.memories:
        by_id |= {task.task_id: task for task in reflections(run, trained)}
    records = list(read_records(context.inputs["sample"] / "rollouts.jsonl"))
    tasks = [by_id[name] for name in dict.fromkeys(record["task_id"] for record in records)]
    rows, audit = build_grpo(records, tasks, partial(messages_of, run), options, slots_of, partial(follow_up_of, run))
    write(context.folder, "train", rows, audit)
    unrated = run.tasks("valid")[: context.config["grpo_set"]["validation"]]
    valid = rows_for(unrated, run.messages, options, slots_of)
    if valid:
        write(context.folder, "valid", valid, {"total": len(valid)})
    taken = ", ".join(f"{name} {count}" for name, count in audit["taken"].items())
    short, unused = (sum(audit[name].values()) for name in ("shortfall", "unused"))
    return {
        "summary": f"{audit['total']} instances ({taken}) of {audit['rated']:,} rated"
        + (f", {short} short" if short else "")
        + (f", {unused} left over (grpo_set.fill=true takes them)" if unused > audit["total"] else ""),
        **audit,
    }


def build_grpo(
    records: Iterable[Mapping[str, Any]],
    tasks: Iterable[Task],
    prompts: Prompts,
    options: GrpoSetOptions,
    slots_of: SlotsOf = lambda task: None,
    follow_up: Callable[[Task], str | None] = lambda task: None,
) -> tuple[list[Row], Row]:
    """Return the rows of a set composed from sampled rollouts, and its audit: what was kept, dropped and missing.

    The same input gives the same rows in the same order.

    Args:
        records: rollouts with ``task_id``, ``sample``, ``stop`` and ``model_text``.
        tasks: the instances that were sampled.
        prompts: makes the messages of a task; called for the chosen instances alone.
        slots_of: returns what the names in the prompt stand for; None for a prompt with ids.
        follow_up: returns what the environment asks after a reflection; None for a ranking task.

    Raises:
        StarError: a faulty task, or a record that does not belong.
    """
    bounds = bounds_for(options.samples)
    by_id = _by_id(tasks)
    successes, left_out = _count_successes(records, by_id, options.samples)
    bucket_of = {
        task_id: name
        for task_id, count in successes.items()
        for name, (low, high) in bounds.items()
        if low <= count <= high
    }
    available = {name: list(bucket_of.values()).count(name) for name in bounds}
    wanted = compose(largest_total(available) if options.total == "max" else options.total)

    def lot(task_id: str) -> bytes:  # of seed and instance alone, so that other instances do not change the choice
        return hashlib.blake2b(f"{options.seed}/{task_id}".encode(errors="surrogatepass"), digest_size=16).digest()

    taken: Counter[str] = Counter()
    order, chosen = sorted(bucket_of, key=lot), set[str]()
    for task_id in order:
        name = bucket_of[task_id]
        if taken[name] < wanted[name]:
            taken[name] += 1
            chosen.add(task_id)
    if options.fill:
        room = len(order) if options.total == "max" else options.total
        others = [task_id for task_id in order if task_id not in chosen][: room - len(chosen)]
        taken.update(bucket_of[task_id] for task_id in others)
        chosen.update(others)
    rows = [
        row(
            task,
            prompts(task),
            index,
            options,
            "train",
            slots_of(task),
            bucket_of[task_id],
            successes[task_id],
            follow_up(task),
        )
        for index, task_id in enumerate(task_id for task_id in order if task_id in chosen)
        for task in [by_id[task_id]]
    ]
    audit = {
        "requested": options.total,
        "total": len(rows),
        "samples": options.samples,
        "seed": options.seed,
        "ratio": RATIO,
        "bounds": {name: list(bound) for name, bound in bounds.items()},
        "tasks": len(by_id),
        "rated": len(successes),
        "wanted": wanted,
        "available": available,
        "taken": {name: taken[name] for name in bounds},
        "shortfall": {name: max(0, wanted[name] - taken[name]) for name in bounds},
        "unused": {name: available[name] - taken[name] for name in bounds},
        "dropped": {
            "never_solved": sum(count == 0 for count in successes.values()),
            "always_solved": sum(count == options.samples for count in successes.values()),
            "incomplete": left_out["incomplete"],
            "not_sampled": left_out["not_sampled"],
        },
        "records": {"twice": left_out["twice"], "failed": left_out["failed"]},
        "hr1": sum(successes.values()) / (options.samples * len(successes)) if successes else 0.0,
        "histogram": _histogram(by_id, successes, {name: bucket_of[name] for name in chosen}, options.samples),
    }
    return rows, audit


def _count_successes(
    records: Iterable[Mapping[str, Any]], tasks: Mapping[str, Task], samples: int
) -> tuple[dict[str, int], Counter[str]]:
    """Count the successes of each instance, and by reason the records and instances that were left out.

    A sample that a resumed sampler recorded twice counts once. An instance with fewer than ``samples`` usable samples
    is left out, since the bounds are for ``samples`` of them.

    Raises:
        StarError: a record of a task that is not in ``tasks``, without its number, or with more than ``samples``.
    """
    outcomes: dict[str, dict[int, bool]] = {}
    left_out: Counter[str] = Counter()
    for record in records:
        task = tasks.get(str(record.get("task_id")))
        if task is None:
            raise StarError(
                f"a rollout belongs to task {record.get('task_id')!r}, which is not among the {len(tasks)} tasks",
                "give the tasks that were sampled",
            )
        number = record.get("sample")
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < samples:
            raise StarError(
                f"a rollout of task {task.task_id} is sample {number!r}", f"samples are numbered 0 to {samples - 1}"
            )
        found = outcomes.setdefault(task.task_id, {})
        if number in found:
            left_out["twice"] += 1
            continue
        success = solved(record, task)
        if success is None:
            left_out["failed"] += 1
        else:
            found[number] = success
    successes = {}
    for task_id in tasks:
        if task_id not in outcomes:
            left_out["not_sampled"] += 1
        elif len(outcomes[task_id]) < samples:
            left_out["incomplete"] += 1
        else:
            successes[task_id] = sum(outcomes[task_id].values())
    return successes, left_out


def row(
    task: Task,
    messages: Messages,
    index: int,
    options: GrpoSetOptions,
    split: str,
    slots: Slots | None = None,
    difficulty: str = "unrated",
    successes: int = -1,
    follow_up: str | None = None,
) -> Row:
    """Return one row of :data:`SCHEMA`; ``unrated`` and -1 for an instance without samples (validation)."""
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
            "slots": slots.to_json() if slots else None,
            "difficulty": difficulty,
            "successes": successes,
            "required": list(REQUIRED if follow_up else options.required),
            "follow_up": follow_up,
            "top": options.top,
            "need_tools_kwargs": True,
            "tools_kwargs": {tool: {"create_kwargs": {"task_id": task.task_id}} for tool in TOOLS},
        },
    }


def rows_for(
    tasks: Iterable[Task], prompts: Prompts, options: GrpoSetOptions, slots_of: SlotsOf = lambda task: None
) -> list[Row]:
    """Return the rows of unrated tasks, the validation set, in the order given."""
    distinct = _by_id(tasks).values()
    return [row(task, prompts(task), index, options, "valid", slots_of(task)) for index, task in enumerate(distinct)]


def write(folder: Path, name: str, rows: list[Row], audit: Row) -> Path:
    """Write ``<name>.parquet`` and ``<name>.audit.json``, each whole or not at all; return the Parquet file.

    Raises:
        StarError: there are no rows, or the folder cannot be written.
    """
    target = folder / f"{name}.parquet"
    if not rows:
        available = audit.get("available", {})
        remedy = "sample more instances, raise the temperature, or train the checkpoint further"
        what = f"no instance is left for {target}: {json.dumps(available)}"
        if some := sum(available.values()):
            remedy = f"take all {some} as they are with grpo_set.fill=true, or {remedy}"
            what = f"{target} cannot be composed 3:4:3 of {some} instances: {json.dumps(available)}"
        raise StarError(what, remedy)
    with atomic_path(target) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="zstd")
    write_json(folder / f"{name}.audit.json", audit)
    return target


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


def _histogram(
    tasks: Mapping[str, Task], successes: Mapping[str, int], taken: Mapping[str, str], samples: int
) -> list[Row]:
    """Count, per source and scenario, instances by successes (0 .. samples) and taken ones by bucket."""
    groups: dict[tuple[str, str], Row] = {}
    for task_id, count in successes.items():
        key = tasks[task_id].source, tasks[task_id].scenario
        empty = {"source": key[0], "scenario": key[1], "successes": [0] * (samples + 1), "taken": Counter()}
        group = groups.setdefault(key, empty)
        group["successes"][count] += 1
        if task_id in taken:
            group["taken"][taken[task_id]] += 1
    return [{**group, "taken": dict(sorted(group["taken"].items()))} for _, group in sorted(groups.items())]
