"""A generator run one step ahead in a thread, so that reading overlaps with what is done to the rows."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")
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
