"""Threads that methods work in, so that one that blocks or exits holds up nobody and ends nothing but its own answer.

A thread cannot be ended from outside. One that hangs is left to itself, as a daemon, and another takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any

#: Seconds within which a loop that is not blocked says so.
_GRACE = 0.5


class Worker:
    """One thread that works off calls."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)

    async def run(self, call: Callable[[], Any]) -> Any:
        """What ``call`` returns.

        Raises:
            RuntimeError: it raised, whatever that was; named in the words.
        """
        if not self._thread.is_alive():
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._calls.put((call, future, loop))
        return await future

    def _work(self) -> None:
        while True:
            call, future, loop = self._calls.get()
            try:
                outcome, value = "set_result", call()
            except BaseException as error:  # whatever it is, it is this answer's failure and no one else's
                outcome, value = "set_exception", RuntimeError(words(error))
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, outcome, value)
            del call, future, loop, value


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What ``work`` returns; cancelled there when it is cancelled here.

        Raises:
            RuntimeError: it exits; all else that it raises as it is.
        """
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_contained(work), self._loop))

    async def blocked(self) -> bool:
        """Does nothing else get a turn there?"""
        try:
            await asyncio.wait_for(self.run(asyncio.sleep(0)), _GRACE)
        except TimeoutError:
            return True
        return False

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


async def _contained(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:  # would end the loop, and nobody would hear of it
        raise RuntimeError(words(error)) from error


def _settle(future: asyncio.Future[Any], outcome: str, value: Any) -> None:
    if not future.done():
        getattr(future, outcome)(value)


def words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
