"""Plain objects with ``name`` and ``rank(context) -> list[str]`` as methods: star_rl.baselines, or one's own."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from star_rl import deadline
from star_rl.errors import StarError
from star_rl.evaluation.methods.base import Method, Ranking, TaskContext, as_ranking
from star_rl.evaluation.methods.registry import BASELINES, Spec, load


class BaselineMethod(Method):
    """A plain object that ranks, in a thread: one that hangs is abandoned and delays no other.

    Args:
        options: that decide its answers.
        name: in the tables, by default the ranker's own.
        fit: trains the ranker, when the method is entered: one that has answered everything is not trained.
    """

    def __init__(
        self,
        ranker: Any,
        options: Mapping[str, Any] | None = None,
        name: str = "",
        fit: Callable[[], object] | None = None,
    ) -> None:
        self.name, self._ranker, self._fit = name or str(ranker.name), ranker, fit
        self._options = dict(options or {})

    @property
    def describe(self) -> dict[str, Any]:
        return self._options

    async def __aenter__(self) -> Method:
        if self._fit is not None:
            self._fit()
        return self

    async def rank(self, context: TaskContext) -> Ranking:
        def work() -> Ranking:
            began = time.perf_counter()
            return replace(as_ranking(self._ranker.rank(context)), seconds=time.perf_counter() - began)

        return await deadline.ask(work)


def make_baseline(run: Any, spec: Spec, seed: int, folder: Path) -> Method:
    """Make a method without a language model; its options are those of its class."""
    spec.no_argument()
    kind = load(BASELINES[spec.name], spec.name)
    given = {"seed": seed, **spec.options}
    try:
        ranker = kind(**given)
    except StarError as error:
        raise StarError(f"method {spec.text!r}: {error.what}", error.remedy) from error
    except TypeError as error:
        raise StarError(f"method {spec.text!r}: {error}", "see the class's own options") from error
    learns = inspect.signature(ranker.fit).parameters if hasattr(ranker, "fit") else {}

    def epoch(done: float, total: float | None = None, note: str = "") -> None:
        if method.watch is not None:
            method.watch(f"gets ready, epoch {done:.0f} of at most {total:.0f}")

    def fit() -> None:
        if learns:
            ranker.fit(run.visible, **({"progress": epoch} if "progress" in learns else {}))

    name = " ".join([spec.name, *(f"{key}={value}" for key, value in spec.options.items())])
    method = BaselineMethod(ranker, {"class": kind.__qualname__, **given}, name, fit)
    return method
