"""What a method of one's own may see of a run: nothing that holds an answer, and nothing of the time after a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star_rl.evidence import EvidenceStore
from star_rl.records import Item
from star_rl.run import Run


class View:
    """A run's data up to its first held-out interaction. Read when asked for.

    Attributes:
        visible: interactions that any method may learn from (Arrow table, ``records.INTERACTIONS``).
        items: by id.
        store: the evidence, as the tools answer.
        config: the recipe's sections.
    """

    def __init__(self, world: Run) -> None:
        self._world = world

    @property
    def visible(self) -> Any:
        return self._world.visible

    @property
    def items(self) -> Mapping[str, Item]:
        return self._world.items

    @property
    def store(self) -> EvidenceStore:
        return self._world.store

    @property
    def config(self) -> Mapping[str, Any]:
        return self._world.config
