"""Call code that may never return: a tool on a dead mount, a reward with an endless loop, a method that blocks.

ask          await a blocking function, at most so long, in a daemon thread
within       call a function at most so long from synchronous code
LoopThread   run coroutines on an event loop of their own, which they may block

A thread cannot be stopped from outside. One that hangs is left behind as a daemon, and another takes its place.
asyncio's own executor would not do: ``asyncio.run`` and the interpreter join its threads, so that one stuck call keeps
the whole process from ending.
"""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")

#: Calls at work at once in one event loop; further ones wait for their turn, and their time begins with it.
AT_ONCE = 32
#: Abandoned calls that have not returned, from which on no further call is made. A thread costs little, not nothing.
STUCK = 256
#: Seconds within which an event loop that is not blocked answers.
_GRACE = 0.5


class Overdue(Exception):
    """The call took too long, or too many earlier calls have not returned."""


class Overtime(BaseException):
    """The time of :func:`within` is up. No ``Exception``: an endless loop may catch those."""


class _Job(Generic[T]):
    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.answer: Future[T] = Future()
        self.over = False

    def run(self) -> None:
        value, error = None, None
        try:
            value = self.function()
        except Exception as raised:
            error = raised
        except BaseException as raised:  # SystemExit would end the event loop that awaits it
            error = RuntimeError(reason(raised))
        with _LOCK:
            self.over = True
            _STUCK.discard(self)
        if self.answer.set_running_or_notify_cancel():  # else nobody waits any more
            if error is None:
                self.answer.set_result(value)  # type: ignore[arg-type]
            else:
                self.answer.set_exception(error)

    def abandon(self) -> None:
        with _LOCK:
            if not self.over:
                _STUCK.add(self)


class _Worker(threading.Thread):
    """A daemon that takes one job after the other."""

    def __init__(self) -> None:
        super().__init__(name="star-deadline", daemon=True)
        self.jobs: queue.SimpleQueue[_Job[Any]] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            self.jobs.get().run()
            with _LOCK:
                if len(_IDLE) >= AT_ONCE:  # it was abandoned, and another has its place
                    return
                _IDLE.append(self)


_LOCK = threading.Lock()
_IDLE: list[_Worker] = []
_STUCK: set[_Job[Any]] = set()
_GATES: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}


def stuck() -> int:
    """Return how many abandoned calls have not returned."""
    return len(_STUCK)


def _start(function: Callable[[], T]) -> _Job[T]:
    with _LOCK:
        if len(_STUCK) >= STUCK:
            raise Overdue(f"is not asked: {len(_STUCK)} earlier calls have not returned")
        worker = _IDLE.pop() if _IDLE else None
    job = _Job(function)
    try:
        (worker or _Worker()).jobs.put(job)
    except RuntimeError as error:  # the system gives no further thread
        raise Overdue(f"is not asked: {error}") from error
    return job


def _gate(loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
    if loop not in _GATES:
        for ended in [other for other in _GATES if other.is_closed()]:
            del _GATES[ended]
        _GATES[loop] = asyncio.Semaphore(AT_ONCE)
    return _GATES[loop]


async def ask(function: Callable[[], T], seconds: float | None = None) -> T:
    """Return what ``function`` returns or raises in a daemon thread; any other BaseException becomes a RuntimeError.

    Args:
        seconds: None for no limit of its own; cancelling the caller abandons the call.

    Raises:
        Overdue: it has not returned in time; it goes on, and its answer is lost.
    """
    async with _gate(asyncio.get_running_loop()):
        job = _start(function)
        try:
            async with asyncio.timeout(seconds) as clock:
                return await asyncio.wrap_future(job.answer)
        except TimeoutError as error:
            if not clock.expired():  # the call's own
                raise
            raise Overdue(f"gave no answer in {seconds:g} s") from error
        finally:
            job.abandon()


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what ``function`` returns or raises.

    In the main thread an alarm ends it, once a second until it heeds (a search of ``re`` looks for one as it goes on).
    Elsewhere no alarm can reach it: it runs in a daemon thread, which is left behind.

    Raises:
        Overtime: it takes longer than ``seconds``.
    """
    if threading.current_thread() is threading.main_thread():
        return _alarmed(seconds, function)
    job = _start(function)
    try:
        return job.answer.result(seconds)
    except TimeoutError:
        if job.answer.done():  # the call's own
            raise
        raise Overtime from None
    finally:
        job.abandon()


def _alarmed(seconds: float, function: Callable[[], T]) -> T:
    def ring(*_: Any) -> None:
        raise Overtime

    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        return function()
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


class LoopThread:
    """An event loop in a daemon thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin ``work`` there; what it returns or raises is in the future."""
        return asyncio.run_coroutine_threadsafe(_contained(work), self._loop)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns or raises there; cancelled there when it is cancelled here.

        Raises:
            RuntimeError: it exits; all else that it raises as it is.
        """
        return await asyncio.wrap_future(self.start(work))

    async def blocked(self) -> bool:
        """Return whether nothing else gets a turn there."""
        try:
            await asyncio.wait_for(self.run(asyncio.sleep(0)), _GRACE)
        except TimeoutError:
            return True
        return False

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:  # would end the loop, and nobody would hear of it
        raise RuntimeError(reason(error)) from error


def reason(error: BaseException) -> str:
    """Return an error as one line: its class, unless it is a plain RuntimeError, and at most 200 characters."""
    words = " ".join(str(error).encode("utf-8", "replace").decode("utf-8").split())[:200]
    return words if type(error) is RuntimeError else f"{type(error).__name__}: {words}"
