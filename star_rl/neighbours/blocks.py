"""Rows of a walk in blocks of about equal cost: over threads of this machine, or the same blocks as Ray tasks.

A row's result depends on that row alone, so neither the number of threads nor Ray can change it.
"""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from star_rl.errors import StarError
from star_rl.neighbours import kernel
from star_rl.neighbours.kernel import Walk, Walker

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

#: Blocks per thread or per Ray CPU: enough for the last ones to even out, few enough that each is worth a task.
BLOCKS_PER_THREAD = 32
BLOCKS_PER_RAY_CPU = 4

#: What a row costs beside its two-hop paths, in paths.
ROW_COST = 64


def run(walk: Walk, rows: np.ndarray, own_rows: np.ndarray, threads: int | None = None, ray: str | None = None) -> Rows:
    """Walk the asked-for rows.

    Args:
        rows: rows of the walk, shape (n,) int32. own_rows: see :meth:`Walker.run`, shape (n,) int32.
        threads: threads on this machine; None takes the cores this process may use.
        ray: None, ``"auto"`` or the address of a Ray cluster.

    Returns:
        indptr (n + 1,) int64; indices int32; weights float32; support uint16 or int32.

    Raises:
        StarError: ``threads`` is below 1, or no Ray cluster answers at the address.
    """
    if threads is not None and threads < 1:
        raise StarError(f"threads = {threads} is below 1", "leave it out to use every core")
    threads = threads or len(os.sched_getaffinity(0))
    steps = kernel.work(walk, rows, threads)
    if steps.sum() > len(walk.target_indices):  # for a few rows looking up is cheaper than packing every edge
        walk = kernel.pack(walk, threads)
    if ray is not None:
        lengths, arrays = _over_ray(walk, rows, own_rows, steps, ray)
    else:
        lengths, arrays = _over_threads(walk, rows, own_rows, steps, threads)
    indptr = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    return indptr, *arrays


def _bounds(walk: Walk, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Row starts (and the end) in an array with room for every row's neighbours. Shape: (n + 1,) int64."""
    most = steps
    if walk.own_indptr is None:  # each mid leads back to the row itself once
        most = steps - (walk.mid_indptr[rows + 1] - walk.mid_indptr[rows])
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.minimum(most, min(walk.k, walk.n_targets)), out=starts[1:])
    return starts


def _edges(steps: np.ndarray, blocks: int) -> list[int]:
    """Where to cut the rows into at most ``blocks`` pieces of about equal cost."""
    cost = np.cumsum(steps + ROW_COST)
    if not len(cost):
        return [0, 0]
    cuts = (np.searchsorted(cost, np.arange(1, blocks) * (cost[-1] / blocks)) + 1).tolist()
    return [0, *(cut for cut in dict.fromkeys(cuts) if cut < len(steps)), len(steps)]


def _over_threads(
    walk: Walk, rows: np.ndarray, own_rows: np.ndarray, steps: np.ndarray, threads: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    starts = _bounds(walk, rows, steps)
    # Memory is only taken up page by page as rows are written; what the bound overstates costs nothing.
    size = int(starts[-1])
    out = (np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, walk.support_type))
    lengths = np.zeros(len(rows), np.int32)
    pieces = iter(list(pairwise(_edges(steps, threads * BLOCKS_PER_THREAD if threads > 1 else 1))))

    def work() -> None:
        walker = Walker(walk)
        for low, high in pieces:  # next() of a list's iterator is atomic: threads share it
            walker.run(rows[low:high], own_rows[low:high], starts[low:high], out, lengths[low:high])

    if threads == 1:
        work()
    else:
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(work) for _ in range(threads)]:
                future.result()
    return lengths, kernel.compact(starts[:-1], lengths, out)


def walk_block(walk: Walk, rows: np.ndarray, own_rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """One block by itself: (lengths, indices, weights, support)."""
    lengths, arrays = _over_threads(walk, rows, own_rows, kernel.work(walk, rows), 1)
    return (lengths, *arrays)


def _knock(address: str) -> None:
    """Fail at once where nothing listens at ``host:port``; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _over_ray(
    walk: Walk, rows: np.ndarray, own_rows: np.ndarray, steps: np.ndarray, address: str
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    import ray

    started = not ray.is_initialized()
    if started:
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise StarError(
                f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]})",
                "start one with `ray start --head`, or leave ray out to use the threads of this machine",
            ) from error
    try:
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=1, max_retries=3)(walk_block)
        shared = ray.put(walk)
        pending = [
            task.remote(shared, rows[low:high], own_rows[low:high])
            for low, high in pairwise(_edges(steps, cpus * BLOCKS_PER_RAY_CPU))
        ]
        blocks = ray.get(pending)
        lengths, indices, weights, support = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
    finally:
        if started:
            ray.shutdown()
    return lengths, (indices, weights, support)
