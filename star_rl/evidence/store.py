"""The sealed evidence store as a reader sees it (paper, section 3.3: an online call is a look-up)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.evidence.fusion import fused_categories, fused_weights
from star_rl.evidence.leak import Contains, digest_of_targets, targets_of
from star_rl.evidence.manifest import read_manifest, shard_name
from star_rl.evidence.model import ITEM_CF, Category, categories_of
from star_rl.evidence.shard import (
    FILE,
    LONGEST,
    Shard,
    columns_in,
    damaged,
    ids_in,
    is_hashed,
    key_in,
    name_of,
    open_shard,
    shard_of,
    short,
    structured_in,
)
from star_rl.evidence.template import evidence_text
from star_rl.files import sha256
from star_rl.records import Task

#: What stays decoded, as the samples of one task ask the same: the ids of a key (25 kB at 400 neighbours), titles, and
#: the fused neighbours of several keys (200 kB at 8 keys).
_IDS, _TITLES, _FUSED = 2048, 16384, 64


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """What the store holds of the keys that were asked for.

    ``ids`` are the neighbours, best first; ``unknown`` are the asked keys that are not stored.
    """

    text: str
    ids: Sequence[str]
    unknown: tuple[str, ...] = ()


class EvidenceStore:
    """An immutable map from (tool, id) to a text, its neighbours and its structured evidence.

    Opening reads every file once to check it, then maps it: all processes of a node share one page cache. A store is
    pickled as its path. Threads and forked processes may share one object.

    A node may hold some of the shards only: :meth:`open` needs at least one, and a look-up in a missing one names it.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self._prefix = {tool: name_of(tool, "") for tool in manifest["tools"]}
        self._count = len(manifest["shards"])
        self._shards: dict[int, Shard] = {}
        self._thread = threading.local()
        self._ids = lru_cache(maxsize=_IDS)(self._read_ids)
        self._fused = lru_cache(maxsize=_FUSED)(self._fuse)
        self._title = lru_cache(maxsize=_TITLES)(self._read_title)

    @classmethod
    def open(
        cls, path: str | Path, scenario: str, fingerprint: str, tasks: Iterable[Task] | None = None
    ) -> EvidenceStore:
        """Open a sealed store that answers for the data at hand.

        Args:
            path: the store's folder.
            scenario: of the tasks; a store of another scenario is refused.
            fingerprint: of the visible interactions; a store built from other interactions is refused.
            tasks: all tasks of the run; the store must hold the proof that it saw none of their targets.

        Raises:
            StarError: the store is missing, unsealed, damaged, of another format, scenario or data, lacks the proof, or
                has no shard on this machine.
        """
        store = cls._read(Path(path), scenario, fingerprint)
        if tasks is not None:
            store.check_targets(tasks)
        return store

    @classmethod
    def inspect(cls, path: str | Path) -> EvidenceStore:
        """Open a store to look at it, whatever it was built from; tools never answer from it. Errors as of `open`."""
        manifest = read_manifest(path)
        return cls._read(Path(path), manifest["scenario"], manifest["fingerprint"])

    @classmethod
    def _read(cls, path: Path, scenario: str, fingerprint: str) -> EvidenceStore:
        store = cls(path, read_manifest(path, scenario, fingerprint))
        present = store.local_shards()
        if not present:
            raise StarError(f"none of the {store._count} shards of {path} is on this machine", "copy at least one here")
        for number in present:
            store._shard(number)
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return (EvidenceStore.open, (str(self.path), self.scenario, self.fingerprint))

    def check_targets(self, tasks: Iterable[Task], contains: Contains | None = None) -> None:
        """Refuse tasks whose targets the store may have seen.

        Args:
            tasks: what is asked of the store.
            contains: looks a (user, item) pair up in the visible interactions whose fingerprint the store was opened
                with. Without it, the store must have been sealed with the proof for exactly these tasks.

        Raises:
            StarError: a target is visible, or there is no proof.
        """
        rows = list(tasks)
        if contains is not None:
            targets_of(rows, contains)
        elif (self.manifest.get("targets") or {}).get("digest") != digest_of_targets(rows):
            raise StarError(
                f"the evidence store {self.path} holds no proof that it saw no target of these {len(rows)} tasks",
                "build it with these tasks",
            )

    @property
    def scenario(self) -> str:
        return self.manifest["scenario"]

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    def __len__(self) -> int:
        return self.manifest["entries"]

    def get(self, tool: str, key: str) -> str | None:
        """Return the text a tool answers with; None for an unknown tool or id (whatever a model wrote there).

        Raises:
            StarError: the bytes are damaged, or the id's shard is not on this machine.
        """
        try:
            name = self._prefix[tool] + key.encode()
        except (KeyError, TypeError, AttributeError, UnicodeEncodeError):
            return None  # a tool or an id that cannot have been stored: a model may write anything
        try:
            text = self._thread.text(name)
        except AttributeError:  # the thread's first look-up
            self._thread.text = self._transaction(0).get if self._count == 1 else self._routed
            text = self._thread.text(name)
        if text is None and (len(name) <= LONGEST or (text := self._thread.text(short(name))) is None):
            return None
        found: str = text.decode()
        return found

    def answer(
        self, tool: str, keys: Sequence[str], named: Callable[[str], str | None] | None = None
    ) -> StoreAnswer | None:
        """Return the answer about one key, or one answer about several; None if no key is stored.

        One key has the stored text. Of several keys, the weights of the stored neighbours are summed, without the asked
        keys; their categories are merged by name and put into words within the store's budget. Nothing but stored
        evidence is read.

        Args:
            tool: ``UserCF`` or ``ItemCF``.
            keys: users or items, as a model wrote them; each counts once, and values that are not strings are ignored.
            named: an id's name in the text, or None; the text is then put into words again. The answer's ids stay ids.

        Raises:
            StarError: the bytes are damaged, or the shard of a key or a shown title is not on this machine.
        """
        asked = tuple(dict.fromkeys(key for key in keys if isinstance(key, str)))
        texts = {key: text for key in asked if (text := self.get(tool, key)) is not None}
        if not texts:
            return None
        known, unknown = tuple(texts), tuple(key for key in asked if key not in texts)
        if len(known) > 1:
            # Sorted: floating-point sums, and so ties, do not depend on the order of the question.
            ids, categories = self._fused(tool, tuple(sorted(known)), tuple(sorted(unknown)))
        else:
            ids = self.neighbour_ids(tool, known[0])
            if named is None:
                return StoreAnswer(texts[known[0]], ids, unknown)
            categories = categories_of(self._structured(tool, known[0]))
        about = self.manifest["about"]
        text = evidence_text(
            tool, categories, self._title, about["size"], about["budget"], keys=len(known), named=named
        )
        return StoreAnswer(text, ids, unknown)

    def _fuse(
        self, tool: str, known: tuple[str, ...], unknown: tuple[str, ...]
    ) -> tuple[tuple[str, ...], tuple[Category, ...]]:
        """Return the fused neighbours and categories of several keys."""
        about = self.manifest["about"]
        details = [found for key in known if (found := self._details(tool, key)) is not None]
        columns = [columns_in(found) for found in details]
        ids, sums = fused_weights(columns, (*known, *unknown) if tool == ITEM_CF else ())
        categories = fused_categories(
            tool,
            (categories_of(structured_in(found)) for found in details),
            sums,
            total=sum(len(near) for near, *_ in columns),
            most=about["categories"],
            own_summaries=about["verbaliser"] == "llm",
        )
        return tuple(ids), categories

    def _structured(self, tool: str, key: str) -> Any:
        details = self._details(tool, key)
        return None if details is None else structured_in(details)

    def _read_title(self, item_id: str) -> str:
        """Return an item's title, which its entry of ItemCF keeps."""
        structured = self._structured(ITEM_CF, item_id)
        return structured.get("title", "") if isinstance(structured, dict) else ""

    def _routed(self, name: bytes) -> bytes | None:
        """Look a text up among several shards."""
        name = name if len(name) <= LONGEST else short(name)
        found: bytes | None = self._transaction(shard_of(name, self._count)).get(name)
        return found

    def neighbours(self, tool: str, key: str) -> list[tuple[str, float]]:
        """Return (id, weight) of an entry's neighbours, strongest first; empty for an unknown id."""
        details = self._details(tool, key) if isinstance(key, str) and tool in self._prefix else None
        if details is None:
            return []
        ids, weights, *_ = columns_in(details)
        return list(zip(ids, weights, strict=True))

    def neighbour_ids(self, tool: str, key: str) -> tuple[str, ...]:
        """Return the neighbours' ids alone, which is several times as fast as :meth:`neighbours`."""
        return self._ids(tool, key) if isinstance(key, str) and tool in self._prefix else ()

    def _read_ids(self, tool: str, key: str) -> tuple[str, ...]:
        details = self._details(tool, key)
        return () if details is None else tuple(ids_in(details))

    def entry(self, tool: str, key: str) -> dict[str, Any] | None:
        """Return what is stored of an id: ``{tool, key, text, neighbours: [[id, weight, support]], structured}``."""
        text = self.get(tool, key)
        details = None if text is None else self._details(tool, key)
        if details is None:
            return None
        neighbours = [list(row) for row in zip(*columns_in(details), strict=True)]
        return {"tool": tool, "key": key, "text": text, "neighbours": neighbours, "structured": structured_in(details)}

    def _details(self, tool: str, key: str) -> bytes | None:
        try:
            name = name_of(tool, key)
        except UnicodeEncodeError:
            return None
        number = shard_of(name, self._count)
        found: bytes | None = self._transaction(number).get(name, db=self._shard(number).details)
        return found

    def keys(self, tool: str) -> Iterator[str]:
        """Yield every stored id of a tool, in a stable order, of the shards on this machine."""
        prefix = self._prefix.get(tool, b"")
        for number in self.local_shards() if prefix else ():
            for name in self._shard(number).names(prefix):
                if is_hashed(name):
                    yield key_in(self._transaction(number).get(name, db=self._shard(number).details))
                else:
                    yield name[len(prefix) :].decode()

    def shard_of(self, tool: str, key: str) -> str:
        """Return the name of the shard that holds an id, for a router where no node holds all of them."""
        return shard_name(shard_of(name_of(tool, key), self._count))

    def local_shards(self) -> list[int]:
        """Return the numbers of the shards on this machine."""
        return [number for number in range(self._count) if (self.path / shard_name(number)).is_dir()]

    def verify(self) -> dict[str, Any]:
        """Read every byte of the local shards and compare it with the manifest's SHA-256.

        Returns:
            ``{"entries", "bytes", "shards", "absent": [names]}``.

        Raises:
            StarError: a file differs from what was sealed.
        """
        report: dict[str, Any] = {"entries": 0, "bytes": 0, "shards": 0, "absent": []}
        present = set(self.local_shards())
        for number, row in enumerate(self.manifest["shards"]):
            if number not in present:
                report["absent"].append(shard_name(number))
                continue
            file = self.path / shard_name(number) / FILE
            if (digest := sha256(file)) != row["sha256"]:
                raise damaged(file, f"its SHA-256 is {digest[:16]}.., not {row['sha256'][:16]}..")
            report["bytes"] += row["bytes"]
            report["entries"] += row["entries"]
            report["shards"] += 1
        return report

    def close(self) -> None:
        """Let the files go; they are unmapped once no store of this process reads them."""
        self._thread, self._shards = threading.local(), {}

    def __enter__(self) -> EvidenceStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _transaction(self, number: int) -> Any:
        """Return this thread's read transaction on a shard."""
        mine = self._thread.__dict__.setdefault("transactions", {})
        if number not in mine:
            mine[number] = self._shard(number).begin()
        return mine[number]

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            folder = self.path / shard_name(number)
            if not folder.is_dir():
                raise StarError(
                    f"{shard_name(number)} of the evidence store {self.path} is not on this machine",
                    f"copy it to {folder}, or ask a node that holds it",
                )
            self._shards[number] = open_shard(folder / FILE, self.manifest["shards"][number])
        return self._shards[number]
