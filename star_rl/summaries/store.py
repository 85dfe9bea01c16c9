"""The sealed summaries: an evidence store whose keys are a user and a hash of a prefix of the user's history.

A summary is found by the history that a task shows, so it can hold nothing at or after the task's cutoff. The train,
valid and test tasks of one user share the summaries of the prefixes that their histories share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.evidence.manifest import building_folder, read_manifest
from star_rl.evidence.store import EvidenceStore
from star_rl.files import fingerprint
from star_rl.prompts import Summary

#: The tool under whose name the store keeps summaries.
TOOL = "Summary"


def store_of(folder: str | Path) -> Path:
    """Return the place of the store in the folder of stage ``summaries``."""
    return Path(folder) / "store"


def key_of(user_id: str, prefix: Sequence[tuple[Any, ...]]) -> str:
    """Return the key of a summary: the user, and a hash of (item id, timestamp, rating) of each interaction."""
    rows = [(item, stamp, rating if rating == rating else None) for item, stamp, rating, *_ in prefix]
    return f"{user_id}/{fingerprint(rows)}"


class Summaries:
    """Summaries of a run's users. Threads and forked processes may share one object."""

    def __init__(self, store: EvidenceStore) -> None:
        self._store = store
        self._chunk: int = store.manifest["about"]["chunk"]

    @classmethod
    def open(cls, folder: str | Path, scenario: str | None = None, data: str | None = None) -> Summaries:
        """Open the summaries that stage ``summaries`` wrote into ``folder``.

        Args:
            scenario, data: of the tables at hand: the scenario and the fingerprint of their visible interactions.

        Raises:
            StarError: there are no summaries, they are unsealed or damaged, or of another scenario or data.
        """
        place = store_of(folder)
        if not place.exists() and not building_folder(place).exists():
            raise StarError(f"there are no summaries in {folder}", "name the folder summaries of a run that has some")
        try:
            manifest = read_manifest(place, scenario, data)
            return cls(EvidenceStore.open(place, manifest["scenario"], manifest["fingerprint"]))
        except StarError as error:
            raise StarError(error.what.replace("evidence store", "store of summaries"), "run stage summaries") from None

    @property
    def fingerprint(self) -> str:
        """Return a hash of all summaries."""
        return fingerprint(self._store.manifest)

    def __len__(self) -> int:
        return len(self._store)

    def of(self, user_id: str, history: Sequence[tuple[Any, ...]]) -> Summary | None:
        """Return the summary of the longest stored prefix of this history that leaves at least one interaction out.

        Args:
            history: (item id, timestamp, rating, ..) of each interaction, oldest first.
        """
        for count in range((len(history) - 1) // self._chunk * self._chunk, 0, -self._chunk):
            text = self._store.get(TOOL, key_of(user_id, history[:count]))
            if text is not None:
                return Summary(text, count, history[0][1], history[count - 1][1])
        return None
