"""Work in other threads: a generator one step ahead of its reader, and an ordered map over several threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_END: Any = object()


def ahead(rows: Iterator[T]) -> Iterator[T]:
    """Yield what ``rows`` yields while a thread makes the next value. An error of ``rows`` is raised here."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, rows, _END)
        while (value := waiting.result()) is not _END:
            waiting = pool.submit(next, rows, _END)
            yield value


def spread(work: Callable[[T], R], jobs: Iterable[T], threads: int) -> Iterator[R]:
    """Map ``work`` over ``jobs`` in several threads, in order; no more than ``threads + 1`` jobs are taken on at once.

    Pays where ``work`` releases the GIL. An error of ``work`` or ``jobs`` is raised where its result is due.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def cores(most: int) -> int:
    """Return the processor cores that this process may use, at most ``most``."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(most, usable))
