"""Many rollouts of one checkpoint over many tasks: difficulty sampling, evaluation, best-of-k.

Runs :func:`star_rl.policy.loop.rollout`, the loop that training runs. One JSON line a rollout, appended as each ends,
so that a killed run goes on with what is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from star_rl import locks
from star_rl.errors import StarError
from star_rl.files import fingerprint, read_jsonl, write_jsonl, writing_error
from star_rl.fingerprints import of_model
from star_rl.ledger import Ledger, read_rows
from star_rl.options import Number, Size, TopP, Whole, options
from star_rl.policy.engines import EngineOptions, within
from star_rl.policy.loop import Budget, Engine, Rollout, render_prompt, rollout
from star_rl.policy.replicas import open_engine
from star_rl.policy.rollout_stats import FAILED
from star_rl.progress import Progress
from star_rl.tools import TOOL_SCHEMAS, Evidence, Lens, ToolBox

#: Ends that say nothing of the model and may come out otherwise; a prompt that is too long stays so.
_AGAIN = FAILED - {"prompt_too_long"}


@dataclass(frozen=True, slots=True)
class PolicyTask:
    """One prompt for the policy. ``messages`` end with the user's; ``candidates`` are read by the lens of that name."""

    task_id: str
    messages: Sequence[Mapping[str, str]]
    candidates: Sequence[str] = ()


@options
class SamplingOptions:
    """How tasks are sampled.

    samples       rollouts a task
    temperature, top_p, top_k   of the engine; 0.7 and 0.95 are the paper's at evaluation, temperature 0 is greedy
    in_flight     rollouts under way at once on each replica of the engine; more than its ``max_num_seqs`` keep it full
                  while tools answer
    lens, lens_top, show_tools, budget   as in training
    """

    samples: Size = 1
    temperature: Number = 0.7
    top_p: TopP = 0.95
    top_k: Whole = -1
    in_flight: Size = 192
    lens: Lens = "text"
    lens_top: Size = 5
    show_tools: bool = True
    budget: Budget = field(default_factory=Budget)

    def engine_parameters(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}


def tasks_of_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[PolicyTask]:
    """Policy tasks from rows of a GRPO parquet (``prompt`` and ``extra_info``)."""
    for row in rows:
        info = row.get("extra_info") or {}
        yield PolicyTask(str(info["task_id"]), list(row["prompt"]), list(info.get("candidates") or ()))


def sample(
    model: str | Path,
    tasks: Iterable[PolicyTask],
    store: Evidence,
    out: str | Path,
    options: SamplingOptions | None = None,
    engine: EngineOptions | None = None,
    progress: Progress | None = None,
) -> Path:
    """Sample every task and write ``out`` (JSON lines, sorted by task and sample when whole). A file that already holds
    all rollouts, by the same settings, weights, evidence and seed, is kept.

    Fields of a line: ``task_id, sample, stop, error, model_text, messages, counts, prompt_tokens, seconds,
    engine_seconds, tool_seconds, task``. ``seconds`` is wall time from the rollout's start to its end, waiting in the
    engine included. ``task`` is a hash of prompt, candidates and settings; other rollouts are sampled again.

    Raises:
        StarError: the model or the engine is missing, the engine or the store failed in some rollouts, two tasks share
        an id, ``out`` was begun with other settings, weights or evidence, or another process samples into it.
    """
    return asyncio.run(sample_async(model, tasks, store, out, options, engine, progress))


async def sample_async(
    model: str | Path,
    tasks: Iterable[PolicyTask],
    store: Evidence,
    out: str | Path,
    options: SamplingOptions | None = None,
    engine: EngineOptions | None = None,
    progress: Progress | None = None,
) -> Path:
    """:func:`sample` inside a running event loop."""
    options, target, wanted = options or SamplingOptions(), Path(out), list(tasks)
    ids = [task.task_id for task in wanted]
    if len(set(ids)) != len(ids):
        twice = next(task_id for task_id in ids if ids.count(task_id) > 1)
        raise StarError(f"two tasks have the id {twice!r}", "give each task an id of its own")
    settings = _settings(model, store, options, engine)
    digests = {task.task_id: fingerprint([settings, task.messages, task.candidates]) for task in wanted}
    if _holds(target, [(task_id, number, digests[task_id]) for task_id in ids for number in range(options.samples)]):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(target.parent, error) from error
    mark = target.with_name(f".{target.name}.lock")
    with locks.hold(mark, f"another process samples into {target}", "wait for it, or choose another file"):
        part = _part_of(target)
        ledger = Ledger(part, settings, _key, keep=lambda row: row["stop"] not in _AGAIN and _same(row, digests))
        missing = [
            (task, number)
            for task in wanted
            for number in range(options.samples)
            if (task.task_id, number) not in ledger.done
        ]
        try:
            if missing:
                async with open_engine(model, engine) as opened:
                    await _sample_all(opened, _tokenizer(model), missing, store, options, ledger, digests, progress)
        finally:
            ledger.close()
        _finish(part, target, ids)
    return target


async def _sample_all(
    engine: Engine,
    tokenizer: Any,
    missing: Sequence[tuple[PolicyTask, int]],
    store: Evidence,
    options: SamplingOptions,
    ledger: Ledger,
    digests: Mapping[str, str],
    progress: Progress | None,
) -> None:
    replicas = getattr(engine, "alive", 1)  # several behind one engine, star_rl.policy.replicas
    gate, started = asyncio.Semaphore(options.in_flight * replicas), time.monotonic()
    prompts: dict[str, list[int]] = {}
    budget = within(options.budget, engine)
    schemas = TOOL_SCHEMAS if options.show_tools else None
    done, tokens, total = len(ledger.done), 0, len(ledger.done) + len(missing)
    failures: list[str] = []

    async def one(task: PolicyTask, number: int) -> None:
        nonlocal done, tokens
        async with gate:
            if task.task_id not in prompts:
                prompts[task.task_id] = render_prompt(tokenizer, task.messages, schemas)
            begun = time.monotonic()
            result = await rollout(
                engine,
                tokenizer,
                prompts[task.task_id],
                ToolBox(store, task.candidates, options.lens, options.lens_top),
                budget,
                options.engine_parameters(),
            )
            row = record(task.task_id, number, result, time.monotonic() - begun)
            ledger.append({**row, "task": digests[task.task_id]})
        if result.stop in _AGAIN:
            failures.append(result.error or result.stop)
        done, tokens = done + 1, tokens + int(result.counts["model_tokens"])
        if progress is not None:
            progress(done, total, f"{tokens / max(1e-9, time.monotonic() - started):,.0f} tokens/s")

    await asyncio.gather(*(one(task, number) for task, number in missing))
    if failures:
        raise StarError(
            f"the engine or a tool failed in {len(failures)} of {len(missing)} rollouts: {failures[0]}",
            "mend the cause; run again to sample those anew",
        )


def record(task_id: str, number: int, result: Rollout, seconds: float) -> dict[str, Any]:
    """One line of the output."""
    return {
        "task_id": task_id,
        "sample": number,
        "stop": result.stop,
        "error": result.error,
        "model_text": result.model_text,
        "messages": result.messages,
        "counts": result.counts,
        "prompt_tokens": len(result.prompt_ids),
        "seconds": round(seconds, 6),
        "engine_seconds": round(result.engine_seconds, 6),
        "tool_seconds": round(result.tool_seconds, 6),
    }


def _tokenizer(model: str | Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model))


def _settings(
    model: str | Path, store: Evidence, options: SamplingOptions, engine: EngineOptions | None = None
) -> dict[str, Any]:
    folder, seed = Path(model).resolve(), (engine or EngineOptions()).seed
    known = {"model": str(folder), "weights": of_model(folder), "evidence": getattr(store, "fingerprint", None)}
    return {**known, "options": asdict(options), "seed": seed}


def _part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _holds(target: Path, wanted: Sequence[tuple[str, int, str]]) -> bool:
    """Does a finished file hold these and no others (task id, sample, ``task``)?"""
    if not target.is_file() or _part_of(target).exists():
        return False
    rows = (row for row in read_jsonl(target, strict=False) if isinstance(row, dict))
    return [(row.get("task_id"), row.get("sample"), row.get("task")) for row in rows] == list(wanted)


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["task_id"], row["sample"]


def _same(row: Mapping[str, Any], digests: Mapping[str, str]) -> bool:
    """Return whether a rollout is of the task that has its id today, or of none."""
    return bool(row["task"] == digests.get(row["task_id"], row["task"]))


def _finish(part: Path, target: Path, ids: Sequence[str]) -> None:
    order = {task_id: place for place, task_id in enumerate(ids)}
    rows = {_key(row): row for row in read_rows(part) if row["task_id"] in order}
    write_jsonl(target, sorted(rows.values(), key=lambda row: (order[row["task_id"]], row["sample"])))
    part.unlink()
