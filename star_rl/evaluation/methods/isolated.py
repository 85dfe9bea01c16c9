"""Methods whose code is not this project's: they may block, exit or hang, and delay no other."""

from __future__ import annotations

import asyncio
from typing import Any

from star_rl.deadline import LoopThread
from star_rl.evaluation.methods.base import Method, Ranking, TaskContext, as_ranking


class Isolated(Method):
    """A method on an event loop of its own, in a thread of its own.

    Its ``rank`` may be ``async`` by name only, and block: after a timeout its loop is abandoned, and the method is
    entered again on another. A method that awaits properly keeps its loop.
    """

    def __init__(self, inner: Method) -> None:
        self.inner, self.name, self.varies, self.in_flight = inner, inner.name, inner.varies, inner.in_flight
        self._opened: tuple[LoopThread, Method] | None = None
        self._opening = asyncio.Lock()

    @property
    def describe(self) -> dict[str, Any]:
        return self.inner.describe

    async def __aenter__(self) -> Method:
        if self.watch is not None:
            here, watch = asyncio.get_running_loop(), self.watch

            def tell(words: str) -> None:
                here.call_soon_threadsafe(watch, words)

            self.inner.watch = tell
        self.in_flight = (await self._open())[1].in_flight
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            loop, _method = self._opened
            if not await loop.blocked():
                await loop.run(self.inner.__aexit__(None, None, None))
            loop.stop()

    async def rank(self, context: TaskContext) -> Ranking:
        loop, method = await self._open()
        try:
            return as_ranking(await loop.run(_ranked(method, context)))
        except asyncio.CancelledError:
            if self._opened is not None and self._opened[0] is loop and await loop.blocked():
                self._opened = None
            raise

    async def _open(self) -> tuple[LoopThread, Method]:
        async with self._opening:
            if self._opened is None:
                loop = LoopThread()
                self._opened = loop, await loop.run(self.inner.__aenter__())
            return self._opened


async def _ranked(method: Method, context: TaskContext) -> Any:
    """Call ``rank`` in the loop that it may block, whether it is a coroutine function or not."""
    return await method.rank(context)
