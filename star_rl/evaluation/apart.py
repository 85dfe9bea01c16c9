"""Methods whose code is not this project's: they may block, exit or hang, and hold up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from star_rl.evaluation.methods import Method, Ranking, TaskContext, as_ranking
from star_rl.evaluation.threads import Loop
from star_rl.records import Task


class Apart(Method):
    """A method on an event loop of its own, in a thread of its own.

    Its ``rank`` may be ``async`` by name only, and block: after a timeout its loop is left to itself, and the method is
    entered again on another. A method that waits properly keeps its loop.
    """

    def __init__(self, inner: Method) -> None:
        self.inner, self.name, self.varies, self.in_flight = inner, inner.name, inner.varies, inner.in_flight
        self._opened: tuple[Loop, Method] | None = None
        self._opening = asyncio.Lock()

    @property
    def describe(self) -> dict[str, Any]:
        return self.inner.describe

    async def __aenter__(self) -> Method:
        if self.watch is not None:
            here, say = asyncio.get_running_loop(), self.watch
            self.inner.watch = lambda words: _tell(here, say, words)
        self.in_flight = (await self._open())[1].in_flight
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            loop, _method = self._opened
            if not await loop.blocked():
                await loop.run(self.inner.__aexit__(None, None, None))
            loop.stop()

    async def rank(self, task: Task, context: TaskContext) -> Ranking:
        loop, method = await self._open()
        try:
            return as_ranking(await loop.run(_ranked(method, task, context)))
        except asyncio.CancelledError:
            if self._opened is not None and self._opened[0] is loop and await loop.blocked():
                self._opened = None
            raise

    async def _open(self) -> tuple[Loop, Method]:
        async with self._opening:
            if self._opened is None:
                loop = Loop()
                self._opened = loop, await loop.run(self.inner.__aenter__())
            return self._opened


def _tell(loop: asyncio.AbstractEventLoop, say: Callable[[str], None], words: str) -> None:
    loop.call_soon_threadsafe(say, words)


async def _ranked(method: Method, task: Task, context: TaskContext) -> Any:
    """A coroutine whatever ``rank`` is: it is called in the loop that it may block."""
    return await method.rank(task, context)
