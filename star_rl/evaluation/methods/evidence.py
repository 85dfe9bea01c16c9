"""Evidence that is taken away, or false: does a method read what the tools answer, or remember?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from star_rl.errors import StarError
from star_rl.evidence import StoreAnswer
from star_rl.evidence.model import TOOLS
from star_rl.tools import EvidenceReader

_CHOICES = ("true", "none", "false")


class Evidence:
    """What the tools of an evaluation answer from.

    Args:
        store: the run's.
        choice: ``true`` (the store), ``none`` (no id has evidence) or ``false`` (:class:`FalseEvidence`).
        seed: of false evidence.

    Raises:
        StarError: the choice is unknown.
    """

    def __init__(self, store: Any, choice: str = "true", seed: int = 0) -> None:
        if choice not in _CHOICES:
            raise StarError(f"evidence={choice} is unknown", f"choose one of {', '.join(_CHOICES)}")
        self._store, self._choice, self._seed = store, choice, seed

    @property
    def fingerprint(self) -> str:
        """What decides the answers."""
        added = {"true": "", "none": " none", "false": f" false {self._seed}"}[self._choice]
        return f"{self._store.fingerprint}{added}"

    @cached_property
    def _keys(self) -> dict[str, list[str]]:
        return {tool: list(self._store.keys(tool)) for tool in TOOLS}

    def of(self, candidates: Sequence[str]) -> EvidenceReader:
        """Return the evidence of a task with these candidates."""
        if self._choice == "true":
            return self._store
        if self._choice == "none":
            return NoEvidence()
        return FalseEvidence(self._store, self._keys, candidates, self._seed)


class NoEvidence:
    """A store that holds no id."""

    def answer(self, tool: str, keys: Sequence[str], named: Any = None) -> StoreAnswer | None:
        return None


class FalseEvidence:
    """Answers with as many candidates as the store does, drawn at random, and the text of other ids.

    Seed, candidates and call decide the draw, so a call is always answered alike.
    """

    def __init__(self, store: Any, keys: dict[str, list[str]], candidates: Sequence[str], seed: int) -> None:
        self._store, self._keys, self._seed = store, keys, seed
        self._candidates = list(dict.fromkeys(candidates))

    def answer(self, tool: str, keys: Sequence[str], named: Any = None) -> StoreAnswer | None:
        true = self._store.answer(tool, keys, named)
        if true is None:
            return None
        draw = random.Random(repr((self._seed, self._candidates, tool, list(keys))))
        others = self._store.answer(tool, draw.choices(self._keys[tool], k=len(keys)), named)
        count = len(set(self._candidates).intersection(true.ids))
        return replace(true, text=others.text, ids=draw.sample(self._candidates, count))
