"""The sealed memories: an evidence store whose keys are a user and a hash of a prefix of the user's history.

As with summaries, a memory is found by the history that a task shows, so it can hold nothing at or after the cutoff.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from star_rl.evidence.store import EvidenceStore
from star_rl.evidence.writer import EvidenceWriter
from star_rl.prompts import Event, Memory
from star_rl.summaries.store import key_of, store_of

_TOOL = "Memory"


class Memories:
    """Memories of a run's users. Threads and forked processes may share one object."""

    def __init__(self, store: EvidenceStore) -> None:
        self._store = store
        self._back: int = store.manifest["about"]["interactions"]

    @classmethod
    def open(cls, folder: str | Path, scenario: str, data: str) -> Memories:
        """Open the memories that stage ``memory`` wrote into ``folder``.

        Raises:
            StarError: they are unsealed or damaged, or of another scenario or data.
        """
        return cls(EvidenceStore.open(store_of(folder), scenario, data))

    @property
    def fingerprint(self) -> str:
        """Return a hash of all memories."""
        return self._store.fingerprint

    def played(self, user_id: str, history: Sequence[Event]) -> Memory | None:
        """Return the memory after the play of this history's last interaction; None if it was not played."""
        text = self._store.get(_TOOL, key_of(user_id, history))
        if text is None:
            return None
        found = json.loads(text)
        return Memory(**{**found, "candidates": tuple(found["candidates"]), "ranking": tuple(found["ranking"])})

    def of(self, user_id: str, history: Sequence[Event]) -> Memory | None:
        """Return the memory after this history, or after the latest of its prefixes that ends with a play."""
        for count in range(len(history), max(0, len(history) - self._back), -1):
            if memory := self.played(user_id, history[:count]):
                return memory
        return None


def put(writer: EvidenceWriter, user_id: str, history: Sequence[Event], memory: Memory) -> None:
    """Store the memory after a history."""
    writer.put(_TOOL, key_of(user_id, history), json.dumps(asdict(memory)), outcome="played")
