"""Calls that may never return, made in threads that nobody has to wait for.

A file on a network mount that stopped answering keeps its reader for ever. asyncio's own executor is the wrong place
for such a call: ``asyncio.run`` and the interpreter join its threads, so one stuck call keeps the whole process from
ending, and a few use up the executor for all others. The threads here are daemons, and one that is given up on leaves
its place to the next.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")

#: Calls at work at once in one event loop; further ones wait for their turn, and their time begins with it.
AT_ONCE = 32
#: Calls given up on that have not returned; from there on no further call is made. A thread costs little, not nothing.
STUCK = 256


class Overdue(Exception):
    """The call took longer than it may, or too many earlier ones have not returned."""


class _Job:
    def __init__(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.function, self.loop, self.future = function, loop, loop.create_future()
        self.over = False

    def run(self) -> None:
        answer, error = None, None
        try:
            answer = self.function()
        except BaseException as raised:  # it is the caller's, whatever it is
            error = raised
        with _LOCK:
            self.over = True
            _STUCK.discard(self)
        try:
            self.loop.call_soon_threadsafe(self._deliver, answer, error)
        except RuntimeError:  # the loop has ended meanwhile, and with it whoever wanted the answer
            return

    def _deliver(self, answer: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(answer)
        else:
            self.future.set_exception(error)


class _Worker(threading.Thread):
    """A daemon that takes one job after the other."""

    def __init__(self) -> None:
        super().__init__(name="star-tool", daemon=True)
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            self.jobs.get().run()
            with _LOCK:
                if len(_IDLE) >= AT_ONCE:  # it was given up on, and another has its place
                    return
                _IDLE.append(self)


_LOCK = threading.Lock()
_IDLE: list[_Worker] = []
_STUCK: set[_Job] = set()
_GATES: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}


def _gate(loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
    if loop not in _GATES:
        for ended in [other for other in _GATES if other.is_closed()]:
            del _GATES[ended]
        _GATES[loop] = asyncio.Semaphore(AT_ONCE)
    return _GATES[loop]


async def ask(function: Callable[[], Answer], seconds: float) -> Answer:
    """What ``function`` returns or raises, made in a thread.

    Raises:
        Overdue: it has not returned after ``seconds``; it goes on, and its answer is lost.
    """
    loop = asyncio.get_running_loop()
    async with _gate(loop):
        with _LOCK:
            if len(_STUCK) >= STUCK:
                raise Overdue(f"is not asked: {len(_STUCK)} earlier calls have not returned")
            worker = _IDLE.pop() if _IDLE else None
        job = _Job(function, loop)
        try:
            (worker or _Worker()).jobs.put(job)
        except RuntimeError as error:  # no further thread to be had
            raise Overdue(f"is not asked: {error}") from error
        try:
            answer: Answer = await asyncio.wait_for(job.future, seconds)
        except TimeoutError as error:
            if not job.future.cancelled():  # the call's own
                raise
            raise Overdue(f"gave no answer in {seconds:g} s") from error
        finally:
            with _LOCK:
                if not job.over:
                    _STUCK.add(job)
        return answer
