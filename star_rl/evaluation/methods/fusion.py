"""Fusion of the evidence by rule: what the lists of the tools are worth without a model that reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from star_rl.evaluation.methods.base import Method, Ranking, TaskContext
from star_rl.evaluation.methods.registry import Spec
from star_rl.mars import RuleOptions
from star_rl.run import Run


class FusionMethod(Method):
    """The candidates in the answers of UserCF, ItemCF of the latest items and ItemCF of the last one, merged.

    Args:
        store: the evidence.
        window: latest interactions that are asked about together.
        top: candidates taken from an answer.
    """

    name = "fusion"

    def __init__(self, store: Any, window: int, top: int) -> None:
        self._store, self._window, self._top = store, window, top

    @property
    def describe(self) -> dict[str, Any]:
        return {"evidence": self._store.fingerprint, "window": self._window, "top": self._top}

    async def rank(self, context: TaskContext) -> Ranking:
        task, shown = context.task, list(dict.fromkeys(context.item_ids[-self._window :]))
        calls = [("UserCF", [task.user_id])] + [("ItemCF", items) for items in (shown, context.item_ids[-1:]) if items]
        answers = [self._store.answer(tool, keys) for tool, keys in calls]
        known = set(task.candidates)
        lists = [[*islice(filter(known.__contains__, one.ids), self._top)] for one in answers if one is not None]
        return Ranking(borda(lists, self._top, task.candidates), tool_calls=len(calls))


def borda(lists: Sequence[Sequence[str]], top: int, candidates: Sequence[str]) -> list[str]:
    """Return the candidates by the sum of ``top - place`` over the lists (places from 0).

    Equals stand in the order of the first list, then of the others, then of the candidates.
    """
    points: Counter[str] = Counter()
    for listed in lists:
        for place, item in enumerate(listed):
            points[item] += top - place
    order = dict.fromkeys([*(item for listed in lists for item in listed), *candidates])
    return sorted(order, key=lambda item: -points[item])


def make_fusion(run: Run, spec: Spec, seed: int, folder: Path) -> Method:
    """Make ``fusion``, with the window of the rules and the list's length of the tools."""
    spec.no_argument()
    spec.check(())
    rules = RuleOptions(**(run.config["teacher"]["options"].get("rules") or {}))
    return FusionMethod(run.store, rules.window, run.config["tools"]["lens_top"])
