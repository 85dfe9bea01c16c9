"""Methods of one's own, from a Python file or module. They may block, exit or hang, and delay no other."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from pathlib import Path
from typing import Any

from star_rl import fingerprints
from star_rl.deadline import LoopThread, reason
from star_rl.errors import StarError
from star_rl.evaluation.methods.base import Method, Ranking, TaskContext, as_ranking
from star_rl.evaluation.methods.baseline import BaselineMethod
from star_rl.evaluation.methods.registry import Spec
from star_rl.own import named
from star_rl.run import Run, VisibleRun


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

        async def ranked() -> Any:  # in the loop that it may block, whether it is a coroutine function or not
            return await method.rank(context)

        try:
            return as_ranking(await loop.run(ranked()))
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


def make_python(run: Run, spec: Spec, seed: int, folder: Path) -> Method:
    """Make ``python:FILE.py:NAME`` or ``python:MODULE:NAME``: a function ``NAME(run, seed, **options)`` that returns a
    :class:`Method`, or an object with ``name`` and ``rank(context)``."""
    module, maker = named(spec.argument, "method")
    try:
        made = maker(VisibleRun(run), seed, **spec.options)
    except StarError:
        raise
    except Exception as error:
        raise StarError(f"{spec.text} cannot be made ({reason(error)})", "mend it, or its options") from error
    method = own_method(made)
    file = getattr(module, "__file__", None)
    method.origin = {
        "place": spec.argument.rpartition(":")[2],
        "source": fingerprints.of_file(Path(file)) if file else module.__name__,
        "evidence": run.store.fingerprint,
        "seed": seed,
        "options": dict(spec.options),
    }
    return method


def own_method(made: Any) -> Method:
    """Return a user's object as a method; each call works in a thread of its own, so that it cannot block others.

    The source file of its class decides its answers: answers of another version of the file are never reused.

    Raises:
        StarError: it is no :class:`Method` and lacks ``name`` or ``rank(context)``.
    """
    if isinstance(made, Method):
        method: Method = Isolated(made)
    elif not hasattr(made, "name") or inspect.iscoroutinefunction(getattr(made, "rank", None)):
        raise StarError(f"{made!r} is no method", "it has a name and rank(context), or is a Method")
    else:
        method = BaselineMethod(made)
    with contextlib.suppress(OSError, TypeError):  # a class of a notebook has no file
        method.origin = {"source": fingerprints.of_file(Path(inspect.getfile(type(made))))}
    return method
