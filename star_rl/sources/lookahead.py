"""Work that overlaps with what is done to its results: a generator a step ahead in a thread, a function in several."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_END = object()


def ahead(rows: Iterator[T], depth: int = 1) -> Iterator[T]:
    """Yield what ``rows`` yields; at most ``depth`` values wait. An error of ``rows`` is raised here.

    The thread ends when the generator is closed or exhausted.
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()

    def put(value: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(value, timeout=0.1)
                return

    def run() -> None:
        try:
            for row in rows:
                put((row, None))
                if stop.is_set():
                    return
            put((_END, None))
        except BaseException as error:  # handed to the reader, whoever it is for
            put((_END, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            value, error = waiting.get()
            if error is not None:
                raise error
            if value is _END:
                return
            yield value
    finally:
        stop.set()
        thread.join()


def spread(work: Callable[[T], R], jobs: Iterable[T], threads: int) -> Iterator[R]:
    """``map`` in several threads: results in the order of the jobs, of which no more than ``threads + 1`` are taken on.

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
    """Processor cores that this process may use, at most ``most``."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(most, there))
