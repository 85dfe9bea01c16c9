"""Sample many rollouts of one checkpoint over many tasks, with the loop that training runs.

Each rollout is one JSON line, appended when it ends, so that a killed run resumes with the missing ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from star_rl import locks, own
from star_rl.errors import StarError
from star_rl.files import fingerprint, read_jsonl, write_jsonl, writing_error
from star_rl.fingerprints import of_model
from star_rl.ledger import Ledger, read_rows
from star_rl.options import Number, Size, TopP, Whole, options
from star_rl.policy.engines import EngineOptions, within
from star_rl.policy.loop import Budget, render_prompt, rollout
from star_rl.policy.replicas import open_engine
from star_rl.policy.rollout_stats import FAILED
from star_rl.progress import Progress
from star_rl.prompts.slots import Slots
from star_rl.tools import EvidenceReader, Lens, ToolBox, schemas_of

#: Rollouts to sample again: the model is not to blame, and another try may end well. A long prompt stays too long.
_AGAIN = FAILED - {"prompt_too_long"}


@dataclass(frozen=True, slots=True)
class PolicyTask:
    """One prompt for the policy. ``messages`` end with the user's; ``candidates`` (ids) are read by the lens of that
    name; ``slots`` are the names that the messages use, None for ids; an environment is told the ``user_id`` and the
    ``follow_up``."""

    task_id: str
    messages: Sequence[Mapping[str, str]]
    candidates: Sequence[str] = ()
    slots: Slots | None = None
    user_id: str = ""
    follow_up: str | None = None


@options
class SamplingOptions:
    """How tasks are sampled.

    samples       rollouts a task
    temperature, top_p, top_k   of the engine; the paper evaluates with 0.7 and 0.95; temperature 0 is greedy
    in_flight     concurrent rollouts a replica; more than its ``max_num_seqs`` keep it full while tools answer
    own, environment   tools and an environment of one's own (:mod:`star_rl.own`)
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
    own: tuple[str, ...] = ()
    environment: str = ""
    budget: Budget = field(default_factory=Budget)


def sample(
    model: str | Path,
    tasks: Iterable[PolicyTask],
    store: EvidenceReader,
    out: str | Path,
    options: SamplingOptions | None = None,
    engine: EngineOptions | None = None,
    progress: Progress | None = None,
    data: Any = None,
) -> Path:
    """Sample every task and write ``out`` (JSON lines, sorted by task and sample when whole). A file that already holds
    all rollouts, by the same settings, weights, evidence and seed, is kept.

    Fields of a line: ``task_id, sample, stop, error, model_text, messages, counts, prompt_tokens, seconds,
    engine_seconds, tool_seconds, task``. ``seconds`` is wall time, waiting in the engine included. ``task`` is a hash
    of prompt, candidates and settings; a rollout with another hash is sampled again. ``data`` is what classes of
    one's own are made with.

    Raises:
        StarError: the model or the engine is missing, the engine or the store failed in some rollouts, two tasks share
            an id, ``out`` was begun with other settings, weights or evidence, or another process samples into it.
    """
    options, target, wanted = options or SamplingOptions(), Path(out), list(tasks)
    places = {task.task_id: place for place, task in enumerate(wanted)}
    if len(places) < len(wanted):
        twice = next(task.task_id for place, task in enumerate(wanted) if places[task.task_id] != place)
        raise StarError(f"two tasks have the id {twice!r}", "give each task an id of its own")
    settings = _settings(model, store, options, engine)
    digests = {
        task.task_id: fingerprint(
            [settings, task.messages, task.candidates, task.slots and task.slots.record]
            + ([task.follow_up] if task.follow_up else [])
        )
        for task in wanted
    }
    keys = [(task_id, number) for task_id in places for number in range(options.samples)]
    part = target.with_name(target.name + ".part")
    if target.is_file() and not part.exists():
        rows = (row for row in read_jsonl(target, strict=False) if isinstance(row, dict))
        held = [(row.get("task_id"), row.get("sample"), row.get("task")) for row in rows]
        if held == [(*key, digests[key[0]]) for key in keys]:
            return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(target.parent, error) from error

    def keep(row: Mapping[str, Any]) -> bool:
        return row["stop"] not in _AGAIN and row["task"] == digests.get(row["task_id"], row["task"])

    lock = target.with_name(f".{target.name}.lock")
    with locks.hold(lock, f"another process samples into {target}", "wait for it, or choose another file"):
        ledger = Ledger(part, settings, _key, keep=keep)
        missing = [(wanted[places[key[0]]], key[1]) for key in keys if key not in ledger.done]
        try:
            if missing:
                asyncio.run(_sample_all(model, engine, missing, store, options, ledger, digests, progress, data))
        finally:
            ledger.close()
        done = {_key(row): row for row in read_rows(part) if row["task_id"] in places}
        write_jsonl(target, sorted(done.values(), key=lambda row: (places[row["task_id"]], row["sample"])))
        part.unlink()
    return target


async def _sample_all(
    model: str | Path,
    engine_options: EngineOptions | None,
    missing: Sequence[tuple[PolicyTask, int]],
    store: EvidenceReader,
    options: SamplingOptions,
    ledger: Ledger,
    digests: Mapping[str, str],
    progress: Progress | None,
    data: Any,
) -> None:
    from transformers import AutoTokenizer

    prompts: dict[str, list[int]] = {}
    schemas = schemas_of(own.schemas(options.own)) if options.show_tools else None
    tools = own.open_tools(options.own, data)
    begin = own.open_environment(options.environment, data) if options.environment else None
    sampling = {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k}
    done, tokens, total = len(ledger.done), 0, len(ledger.done) + len(missing)
    failures: list[str] = []

    async def one(task: PolicyTask, number: int) -> None:
        nonlocal done, tokens
        async with gate:
            if task.task_id not in prompts:
                prompts[task.task_id] = render_prompt(tokenizer, task.messages, schemas)
            toolbox = ToolBox(store, task.candidates, options.lens, options.lens_top, task.slots, tools)
            environment = (
                begin(own.about(task.task_id, task.user_id, task.candidates, task.follow_up)) if begin else None
            )
            begun = time.monotonic()
            prompt = prompts[task.task_id]
            result = await rollout(engine, tokenizer, prompt, toolbox, budget, sampling, environment=environment)
            row = {
                "task_id": task.task_id,
                "sample": number,
                **{name: getattr(result, name) for name in ("stop", "error", "model_text", "messages", "counts")},
                "prompt_tokens": len(result.prompt_ids),
                "seconds": round(time.monotonic() - begun, 6),
                "engine_seconds": round(result.engine_seconds, 6),
                "tool_seconds": round(result.tool_seconds, 6),
                "task": digests[task.task_id],
            }
            ledger.append(row)
        if result.stop in _AGAIN:
            failures.append(result.error or result.stop)
        done, tokens = done + 1, tokens + int(result.counts["model_tokens"])
        if progress is not None:
            progress(done, total, f"{tokens / max(1e-9, time.monotonic() - started):,.0f} tokens/s")

    async with open_engine(model, engine_options) as engine:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(model))
        gate, started = asyncio.Semaphore(options.in_flight * getattr(engine, "alive", 1)), time.monotonic()
        budget = within(options.budget, engine)
        await asyncio.gather(*(one(task, number) for task, number in missing))
    if failures:
        raise StarError(
            f"the engine or a tool failed in {len(failures)} of {len(missing)} rollouts: {failures[0]}",
            "fix the cause and run again: those are sampled again",
        )


def _settings(
    model: str | Path, store: EvidenceReader, options: SamplingOptions, engine: EngineOptions | None = None
) -> dict[str, Any]:
    folder, seed = Path(model).resolve(), (engine or EngineOptions()).seed
    known = {"model": str(folder), "weights": of_model(folder), "evidence": getattr(store, "fingerprint", None)}
    code = own.code_of({"tools": {"own": options.own}, "loop": {"environment": options.environment}})
    return {**known, "options": asdict(options), "code": code, "seed": seed}


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["task_id"], row["sample"]
