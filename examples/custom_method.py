"""A method of your own: anything that ranks the candidates of a task.

    star-rl evaluate random item_knn star "python:examples/custom_method.py:make:decay=0.8" \\
        --tasks runs/quickstart --out scored

or in Python::

    evaluate(["random", Recency(run.items), "star"], "runs/quickstart", "scores")

Every method answers the same tasks, with candidates in the same order. A task that a method sees has no ground truth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from star_rl import Item, Method, Ranking, TaskContext


class Recency:
    """Candidates by their categories' weight in the history; the latest choice weighs most.

    A plain object will do: ``name``, and ``rank(context)`` that returns ids, best first.
    """

    name = "recency"

    def __init__(self, items: Mapping[str, Item], decay: float = 0.9) -> None:
        self.items, self.decay = items, decay

    def rank(self, context: TaskContext) -> list[str]:
        weight: dict[str, float] = defaultdict(float)
        for age, item_id in enumerate(reversed(context.item_ids)):
            for category in self.categories(item_id):
                weight[category] += self.decay**age

        def score(item_id: str) -> float:
            return sum(weight[category] for category in self.categories(item_id))

        # Ties keep the order of the candidates, which is random and the same for every method.
        return sorted(context.task.candidates, key=score, reverse=True)

    def categories(self, item_id: str) -> tuple[str, ...]:
        return self.items[item_id].categories if item_id in self.items else ()


class Service(Method):
    """The same behind ``Method``: for what awaits a service, and reports what an answer cost.

    ``async with`` opens and closes it; ``in_flight`` tasks are asked at once.
    """

    in_flight = 8

    def __init__(self, inner: Recency) -> None:
        self.name, self.inner = f"{inner.name} service", inner

    @property
    def describe(self) -> dict[str, Any]:
        """What decides an answer: after a change, kept answers are not reused."""
        return {"decay": self.inner.decay}

    async def rank(self, context: TaskContext) -> Ranking:
        return Ranking(self.inner.rank(context), calls=1)  # await your service here


def make(run: Any, seed: int, decay: float = 0.9) -> Recency:
    """Make the method for the command line.

    Args:
        run: what may be learned from: ``visible`` (interactions before every task), ``items``, ``store``, ``config``.
        seed: of whatever is drawn; nothing is here.
        decay: an option of the command line.
    """
    return Recency(run.items, float(decay))


def make_service(run: Any, seed: int, decay: float = 0.9) -> Service:
    """Make the same as a :class:`Method`."""
    return Service(make(run, seed, decay))
