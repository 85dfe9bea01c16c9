"""Build a sealed store from neighbours, items and histories, in batches.

A killed build resumes; the sealed bytes are those of an undisturbed one. Memory holds the items, a few batches and
about 100 bytes per entry.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.evidence.leak import Contains, targets_of
from star_rl.evidence.llm import LanguageModel
from star_rl.evidence.manifest import read_manifest
from star_rl.evidence.model import ITEM_CF, USER_CF, Catalogue, Neighbour, Words, checked
from star_rl.evidence.template import Template, clean
from star_rl.evidence.writer import Encoded, EvidenceWriter, encoded
from star_rl.records import Task

#: A table of neighbours (``Neighbours.to_arrow()``: key, neighbours, weights, support) or its Parquet file.
Source: TypeAlias = pa.Table | str | Path
#: User id -> the user's visible items, oldest first.
Histories: TypeAlias = Callable[[str], Sequence[str]]
#: The tool and a batch of neighbours without words yet.
Pending: TypeAlias = Iterator[tuple[str, pa.RecordBatch]]
_BATCH = 512
#: Workers share the items with their parent; with fewer keys one process is as fast as two.
_MOST_WORKERS, _KEYS_OF_A_WORKER = 4, 10_000
_COLUMNS = ("key", "neighbours", "weights", "support")


class Job(NamedTuple):
    """One key without words yet."""

    tool: str
    key: str
    neighbours: list[Neighbour]
    history: Sequence[str]


def build_store(
    path: str | Path,
    sources: Mapping[str, Source],
    verbaliser: Template | LanguageModel,
    *,
    scenario: str,
    fingerprint: str,
    histories: Histories = lambda user: (),
    tasks: Sequence[Task] = (),
    contains: Contains | None = None,
    shards: int = 1,
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Put every key of the sources into words and seal the store.

    Args:
        path: the store's folder; a store that is already sealed with the same settings is returned as it is.
        sources: neighbours by tool (``UserCF``, ``ItemCF``).
        verbaliser: :class:`Template` or :class:`LanguageModel`.
        scenario, fingerprint: of the visible interactions behind the neighbours.
        histories: for the reasons in UserCF's evidence.
        tasks, contains: with both, the manifest proves that the store saw no target of these tasks.
        shards: see :class:`EvidenceWriter`.
        workers: processes for the template; the result is the same. None: one per core, if there are enough keys.
        progress: called with (keys done, all keys).

    Returns:
        The manifest of the sealed store.

    Raises:
        StarError: a target is visible, an input is invalid, or the store cannot be written.
    """
    path = Path(path)
    for tool in sources:
        checked(tool, ())
    targets = targets_of(tasks, contains) if contains is not None else None
    about = verbaliser.about()
    if path.exists():
        manifest = read_manifest(path, scenario, fingerprint)
        if (manifest["about"], len(manifest["shards"]), manifest.get("targets")) != (about, shards, targets):
            raise StarError(f"{path} is sealed, and with other settings", "choose another path, or delete it")
        return manifest
    total = _length(sources)
    with EvidenceWriter(path, scenario, fingerprint, about, shards) as writer:
        pending = _pending(sources, writer)
        if isinstance(verbaliser, LanguageModel):
            entries = _by_model(pending, verbaliser, histories)
        else:
            entries = _by_template(pending, verbaliser, histories, workers or _workers(total))
        for done, entry in enumerate(entries, len(writer) + 1):
            writer.put_encoded(entry)
            if progress is not None and done % 256 == 0:
                progress(done, total)
        writer.seal(**({} if targets is None else {"targets": targets}))
    return read_manifest(path)


def price(
    sources: Mapping[str, Source], model: LanguageModel, histories: Histories = lambda user: (), sample: int = 2000
) -> dict[str, Any]:
    """Estimate the cost of :func:`build_store` with ``model`` from an even sample of about ``sample`` keys."""
    total = _length(sources)
    step = max(1, total // sample)
    jobs = (
        job
        for tool, source in sources.items()
        for batch in _batches(source)
        for job in _read(tool, batch.take(pa.array(range(0, len(batch), step))), histories)
    )
    return model.estimate(jobs, total)


def _workers(keys: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _MOST_WORKERS, keys // _KEYS_OF_A_WORKER))


def _length(sources: Mapping[str, Source]) -> int:
    return sum(
        source.num_rows if isinstance(source, pa.Table) else _opened(source).metadata.num_rows
        for source in sources.values()
    )


def _opened(source: str | Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except FileNotFoundError as error:
        raise StarError(f"there is no table of neighbours {source}", "run the stage that writes it") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise StarError(f"{source} is not a readable Parquet file ({error})", "write it again") from error


def _batches(source: Source) -> Iterator[pa.RecordBatch]:
    names = source.column_names if isinstance(source, pa.Table) else _opened(source).schema_arrow.names
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise StarError(
            f"the neighbours lack the column(s) {', '.join(missing)}", f"they should have {', '.join(_COLUMNS)}"
        )
    if isinstance(source, pa.Table):
        yield from source.select(list(_COLUMNS)).to_batches(max_chunksize=_BATCH)
    else:
        yield from _opened(source).iter_batches(batch_size=_BATCH, columns=list(_COLUMNS))


def _pending(sources: Mapping[str, Source], writer: EvidenceWriter) -> Pending:
    """Yield the rows that are not in the writer yet, in batches."""
    for tool, source in sources.items():
        for batch in _batches(source):
            left = [place for place, key in enumerate(batch["key"].to_pylist()) if (tool, key) not in writer]
            if left:
                yield tool, batch if len(left) == len(batch) else batch.take(pa.array(left))


def _read(tool: str, batch: pa.RecordBatch, histories: Histories) -> Iterator[Job]:
    keys, *columns = (batch[name].to_pylist() for name in _COLUMNS)
    for key, *row in zip(keys, *columns, strict=True):
        neighbours = [Neighbour(*fields) for fields in zip(*row, strict=True)]
        yield Job(tool, key, neighbours, tuple(histories(key)) if tool == USER_CF else ())


def _encoded(job: Job, words: Words, catalogue: Catalogue) -> Encoded:
    structured = words.as_json()
    if job.tool == ITEM_CF and (title := clean(catalogue.title(job.key))):
        structured["title"] = title
    return encoded(job.tool, job.key, words.text, job.neighbours, structured, words.outcome)


# --------------------------------------------------------------------------------------------------------- template

_worker: tuple[Template, Histories] | None = None  # of a worker process


def _begin(template: Template, histories: Histories) -> None:
    global _worker
    _worker = template, histories
    gc.freeze()  # a collection would write to, and so copy, every page that is shared with the parent
    if sys.platform == "linux":  # else a worker outlives a parent that is killed, and holds its locks
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _entries(tool: str, schema: pa.Schema, content: bytes) -> list[Encoded]:
    """Return a batch's entries; runs in a worker, so that the parent only appends bytes."""
    assert _worker is not None
    template, histories = _worker
    batch = pa.ipc.read_record_batch(pa.py_buffer(content), schema)
    return [_encoded(job, template(*job), template.catalogue) for job in _read(tool, batch, histories)]


def _by_template(pending: Pending, template: Template, histories: Histories, workers: int) -> Iterator[Encoded]:
    if workers <= 1:
        for tool, batch in pending:
            for job in _read(tool, batch, histories):
                yield _encoded(job, template(*job), template.catalogue)
        return
    context = multiprocessing.get_context("fork")  # the items are shared with the workers, not copied to them
    with ProcessPoolExecutor(workers, context, _begin, (template, histories)) as pool:
        running: deque[Future[list[Encoded]]] = deque()
        for tool, batch in pending:
            running.append(pool.submit(_entries, tool, batch.schema, batch.serialize().to_pybytes()))
            if len(running) > 2 * workers:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()


# ------------------------------------------------------------------------------------------------------------ model


def _by_model(pending: Pending, model: LanguageModel, histories: Histories) -> Iterator[Encoded]:
    """Keep as many keys in work as the client has slots; yield each as it is done."""
    jobs = (job for tool, batch in pending for job in _read(tool, batch, histories))
    running: set[asyncio.Task[Encoded]] = set()

    async def one(job: Job) -> Encoded:
        return _encoded(job, await model.words(*job), model.template.catalogue)

    async def some() -> set[asyncio.Task[Encoded]]:
        while len(running) < model.chat.options.concurrency and (job := next(jobs, None)) is not None:
            running.add(asyncio.create_task(one(job)))
        if not running:
            return set()
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        running.difference_update(done)
        return done

    with asyncio.Runner() as runner:
        try:
            while done := runner.run(some()):
                for task in done:
                    yield task.result()
        finally:
            runner.run(model.chat.close())
