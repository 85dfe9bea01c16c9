"""Write a store: an unsealed build that survives a kill, and the sealing that writes it in its final form.

The sealed bytes depend on the entries alone, not on the order in which they came nor on how often the writer was
killed.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import lmdb
import msgpack

from star_rl import locks
from star_rl.errors import StarError
from star_rl.evidence.manifest import FORMAT, MANIFEST, building_folder, manifest_text, shard_name
from star_rl.evidence.shard import DETAILS, FILE, TEXTS, described, is_hashed, name_of, pack, shard_of
from star_rl.files import fingerprint as digest_of
from star_rl.files import read_json, write_json, write_text, writing_error

#: The name of an entry, and its text, details and outcome in msgpack.
Encoded: TypeAlias = tuple[bytes, bytes]
#: Bytes that are written in one transaction, and entries that are read in one.
_BATCH, _PIECE = 8 << 20, 4096
#: Addresses that LMDB reserves for a file, which is no longer than what is written.
_LARGEST = 1 << 38


def encoded(
    tool: str, key: str, text: str, neighbours: Sequence[Sequence[Any]], structured: Any, outcome: str
) -> Encoded:
    """Return the bytes of one entry; arguments and errors as of :meth:`EvidenceWriter.put`."""
    if not tool or "\0" in tool:
        raise StarError(f"{tool!r} cannot be a tool's name", "use UserCF or ItemCF")
    try:
        name = name_of(tool, key)
        details = pack(neighbours, structured, key if is_hashed(name) else None)
        return name, msgpack.packb((text.encode(), details, outcome))
    except UnicodeEncodeError as error:
        raise StarError(f"the entry of {tool} {key!r} is not valid Unicode", "mend the source's encoding") from error


class EvidenceWriter:
    """Collect entries and seal them.

    Entries go to ``<path>.building`` beside the store, a few MB at a time. A new writer on the same path resumes there:
    what is already ``in`` it need not be put again. A later ``put`` of the same id replaces the earlier one. Memory:
    about 100 bytes an entry.

    Args:
        path: the store's folder, which must not exist yet.
        scenario: the scenario of the visible data (:data:`star_rl.records.SCENARIOS`, or a name of one's own).
        fingerprint: of the visible data.
        about: all further settings of the build (verbaliser, budget, prompt version); kept in the manifest.
        shards: number of shards by hash of the key; one unless the store is larger than a node's disk.

    Raises:
        StarError: the store exists, another process builds it, or the unfinished build is of something else.
    """

    def __init__(
        self,
        path: str | Path,
        scenario: str,
        fingerprint: str,
        about: dict[str, Any] | None = None,
        shards: int = 1,
    ) -> None:
        self.path = Path(path)
        if shards < 1:
            raise StarError(f"a store cannot have {shards} shards", "use 1 or more")
        if self.path.exists():
            raise StarError(
                f"{self.path} exists already, and a sealed store never changes", "choose another path, or delete it"
            )
        self.identity = {"scenario": scenario, "fingerprint": fingerprint, "about": about or {}}
        self.folder = building_folder(self.path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise writing_error(self.folder, error) from error
        self._lock = locks.hold(
            self.folder / "lock", f"another process is building {self.path}", "wait for it, or stop it"
        )
        self._files = [self.folder / f"{shard_name(number)}.mdb" for number in range(shards)]
        self._pending: list[dict[bytes, bytes]] = [{} for _ in self._files]
        self._bytes = 0
        try:
            self._check_identity({**self.identity, "shards": shards, "format": FORMAT})
            shutil.rmtree(self.folder / "sealing", ignore_errors=True)
            self._names = {name for number in range(shards) for name, _ in self._entries(number)}
        except BaseException:
            self.close()
            raise

    def _check_identity(self, identity: dict[str, Any]) -> None:
        file = self.folder / "identity.json"
        if not file.exists():
            write_json(file, identity)
        found = read_json(file)
        for key, value in identity.items():
            if digest_of(found.get(key)) != digest_of(value):
                raise StarError(
                    f"the unfinished build {self.folder} has {key} {found.get(key)!r}, this one {value!r}",
                    f"finish that build with its own settings, or delete {self.folder}",
                )

    def __contains__(self, entry: tuple[str, str]) -> bool:
        return name_of(*entry) in self._names

    def __len__(self) -> int:
        return len(self._names)

    def put(
        self,
        tool: str,
        key: str,
        text: str,
        neighbours: Sequence[Sequence[Any]] = (),
        structured: Any = None,
        outcome: str = "template",
    ) -> None:
        """Append one entry.

        Args:
            tool, key: ``UserCF`` or ``ItemCF``, and the user's or item's id.
            text: the tool's answer.
            neighbours: (id, weight) or (id, weight, support), strongest first.
            structured: any JSON value: the evidence before it became words. Answers about several keys are made of the
                form of :meth:`star_rl.evidence.model.Words.as_json`.
            outcome: how the words came about; the manifest counts them.

        Raises:
            StarError: an id that is not UTF-8, neighbours of another form, or the disk is full.
        """
        self.put_encoded(encoded(tool, key, text, neighbours, structured, outcome))

    def put_encoded(self, entry: Encoded) -> None:
        """Append an entry that :func:`encoded` made, in this process or another."""
        name, value = entry
        self._pending[shard_of(name, len(self._files))][name] = value
        self._names.add(name)
        self._bytes += len(name) + len(value)
        if self._bytes > _BATCH:
            self.flush()

    def flush(self) -> None:
        """After this returns, no kill and no power cut loses what was put before."""
        for file, pending in zip(self._files, self._pending, strict=True):
            if not pending:
                continue
            try:  # opened anew for each batch: pages that stay mapped would count as this process's memory
                with (
                    lmdb.open(str(file), subdir=False, lock=False, map_size=_LARGEST) as environment,
                    environment.begin(write=True) as transaction,
                ):
                    for name in sorted(pending):
                        transaction.put(name, pending[name])
            except (OSError, lmdb.Error) as error:
                raise writing_error(self.folder, _as_os_error(error)) from error
            pending.clear()
        self._bytes = 0

    def _entries(self, number: int) -> Iterator[tuple[bytes, Any]]:
        """Yield name and (text, details, outcome) of what is on disk of one shard, in the order of the names."""
        file, after, piece = self._files[number], b"", list[tuple[bytes, bytes]]()
        while file.exists():
            with (
                lmdb.open(str(file), subdir=False, lock=False, readonly=True) as environment,
                environment.begin() as transaction,
                transaction.cursor() as cursor,
            ):
                found = cursor.set_range(after) if after else cursor.first()
                if found and cursor.key() == after:
                    found = cursor.next()
                piece = list(islice(cursor, _PIECE)) if found else []
            for name, value in piece:
                yield name, msgpack.unpackb(value)
            if not piece:
                return
            after = piece[-1][0]

    def seal(self, **facts: Any) -> Path:
        """Write the final files and move them to ``path`` in one step; the unsealed build is deleted.

        ``facts`` are further fields of the manifest. Returns the store's folder.
        """
        self.flush()
        sealing = self.folder / "sealing"
        try:
            shutil.rmtree(sealing, ignore_errors=True)
            tools: Counter[str] = Counter()
            outcomes: Counter[str] = Counter()
            rows: list[dict[str, Any]] = []
            for number in range(len(self._files)):
                folder = sealing / shard_name(number)
                folder.mkdir(parents=True)
                before = tools.total()
                self._write_shard(number, folder / FILE, tools, outcomes)
                rows.append({"entries": tools.total() - before, **described(folder / FILE)})
                _sync(folder)
            fields = {
                **self.identity,
                "entries": sum(row["entries"] for row in rows),
                "tools": dict(sorted(tools.items())),
                "outcomes": dict(sorted(outcomes.items())),
                **facts,
                "shards": rows,
            }
            write_text(sealing / MANIFEST, manifest_text(fields))
            _sync(sealing)
            os.rename(sealing, self.path)
            _sync(self.path.parent)
        except (OSError, lmdb.Error) as error:
            raise writing_error(self.path, _as_os_error(error)) from error
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.path

    def _write_shard(self, number: int, file: Path, tools: Counter[str], outcomes: Counter[str]) -> None:
        """Write a shard: all texts, then all details, each in the order of the names. Adds to the counts."""
        with lmdb.open(
            str(file), subdir=False, lock=False, map_size=_LARGEST, max_dbs=2, sync=False, max_spare_txns=0
        ) as environment:
            for place, database in enumerate((TEXTS, DETAILS)):
                handle, entries = environment.open_db(database), self._entries(number)
                while piece := list(islice(entries, _PIECE)):
                    with environment.begin(handle, write=True) as transaction:
                        for name, value in piece:
                            transaction.put(name, value[place], append=True)
                    if not place:
                        tools.update(name[: name.index(b"\0")].decode() for name, _ in piece)
                        outcomes.update(value[2] for _, value in piece)
            environment.sync(True)

    def close(self) -> None:
        """Leave the build unsealed; a later writer resumes it."""
        try:
            self.flush()
        finally:
            self._lock.close()

    def __enter__(self) -> EvidenceWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_os_error(error: OSError | lmdb.Error) -> OSError:
    return error if isinstance(error, OSError) else OSError(str(error))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
