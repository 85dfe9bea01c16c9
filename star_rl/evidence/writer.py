"""Writing a store: an append-only journal that survives a kill, and the sealing that sorts it into its final form.

The sealed bytes depend on the entries alone, not on the order in which they came nor on how often the writer was
killed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from star_rl import locks
from star_rl.errors import StarError
from star_rl.evidence.details import BLOCK_ENTRIES, Blocks, pack
from star_rl.evidence.layout import (
    DETAILS,
    EMPTY,
    FILES,
    GROUP,
    HASH_BITS,
    INDEX,
    RECORDS,
    SLOT,
    TAIL,
    hash_of,
    name_of,
    table_bits,
)
from star_rl.evidence.manifest import FORMAT, MANIFEST, building_folder, manifest_text, shard_name
from star_rl.files import fingerprint as digest_of
from star_rl.files import read_json, write_json, writing_error

#: Journal frame: bytes and checksum of the payload; the payload: lengths of name, text, details, then
#: these three and the outcome.
_FRAME = struct.Struct("<IQ")
_LENGTHS = struct.Struct("<III")


class Encoded(NamedTuple):
    """The bytes of one entry."""

    name: bytes
    text: bytes
    details: bytes
    outcome: bytes


def encoded(
    tool: str, key: str, text: str, neighbours: Sequence[Sequence[Any]], structured: Any, outcome: str
) -> Encoded:
    """The bytes of one entry; arguments and errors as of :meth:`EvidenceWriter.put`."""
    if not tool or "\0" in tool:
        raise StarError(f"{tool!r} cannot be a tool's name", "use UserCF or ItemCF")
    try:
        return Encoded(name_of(tool, key), text.encode(), pack(neighbours, structured), outcome.encode())
    except UnicodeEncodeError as error:
        raise StarError(f"the entry of {tool} {key!r} is not valid Unicode", "mend the source's encoding") from error


class EvidenceWriter:
    """Collects entries and seals them.

    Entries go to a journal beside the store (``<path>.building``). A new writer on the same path resumes there: what is
    already ``in`` it need not be put again. A later ``put`` of the same id replaces the earlier one. Memory: about
    100 bytes an entry.

    Args:
        path: the store's folder, which must not exist yet.
        scenario: the scenario whose visible data this is (:data:`star_rl.records.SCENARIOS`, or a name of one's own).
        fingerprint: fingerprint of the visible tables.
        about: what else tells one build from another (verbaliser, budget, prompt version); kept in the manifest.
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
        self.identity = {
            "scenario": scenario,
            "fingerprint": fingerprint,
            "about": about or {},
            "shards": shards,
            "format": FORMAT,
        }
        self.folder = building_folder(self.path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise writing_error(self.folder, error) from error
        self._lock = locks.hold(
            self.folder / "lock", f"another process is building {self.path}", "wait for it, or stop it"
        )
        self._journals: list[_Journal] = []
        try:
            self._check_identity()
            shutil.rmtree(self.folder / "sealing", ignore_errors=True)
            for number in range(shards):
                self._journals.append(_Journal(self.folder / f"{shard_name(number)}.journal"))
        except BaseException:
            self.close()
            raise
        self._names = {name for journal in self._journals for name in journal.names()}

    def _check_identity(self) -> None:
        file = self.folder / "identity.json"
        if not file.exists():
            write_json(file, self.identity)
            return
        found = read_json(file)
        for key, value in self.identity.items():
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
            tool: ``UserCF`` or ``ItemCF``.
            key: the user's or item's id.
            text: what the tool answers.
            neighbours: (id, weight) or (id, weight, support), strongest first.
            structured: any JSON value: the evidence before it became words.
            outcome: how the words came about; the manifest counts them.

        Raises:
            StarError: an id that is not UTF-8, neighbours of another form, or the disk is full.
        """
        self.put_encoded(encoded(tool, key, text, neighbours, structured, outcome))

    def put_encoded(self, entry: Encoded) -> None:
        """Append what :func:`encoded` made, perhaps in another process."""
        hashed = hash_of(entry.name)
        try:
            self._journals[hashed % len(self._journals)].append(entry, hashed)
        except OSError as error:
            raise writing_error(self.folder, error) from error
        self._names.add(entry.name)

    def flush(self) -> None:
        """After this returns, no kill and no power cut loses what was put before."""
        for journal in self._journals:
            journal.flush()

    def seal(self, **facts: Any) -> Path:
        """Write the final files and move them to ``path`` in one step; the journal is deleted.

        Args:
            facts: further fields of the manifest (counts, what was checked).

        Returns:
            The store's folder.
        """
        self.flush()
        sealing = self.folder / "sealing"
        try:
            shutil.rmtree(sealing, ignore_errors=True)
            tools: Counter[str] = Counter()
            outcomes: Counter[str] = Counter()
            rows: list[dict[str, Any]] = []
            for number, journal in enumerate(self._journals):
                folder = sealing / shard_name(number)
                folder.mkdir(parents=True)
                entries, slots = _write_shard(journal, folder, tools, outcomes)
                files = {name: _described(folder / name) for name in FILES}
                rows.append({"entries": entries, "slots": slots, "block": BLOCK_ENTRIES, "files": files})
                _sync(folder)
            fields = {
                "scenario": self.identity["scenario"],
                "fingerprint": self.identity["fingerprint"],
                "about": self.identity["about"],
                "entries": sum(row["entries"] for row in rows),
                "tools": dict(sorted(tools.items())),
                "outcomes": dict(sorted(outcomes.items())),
                **facts,
                "shards": rows,
            }
            with open(sealing / MANIFEST, "w", encoding="utf-8") as handle:
                handle.write(manifest_text(fields))
                handle.flush()
                os.fsync(handle.fileno())
            _sync(sealing)
            os.rename(sealing, self.path)
            _sync(self.path.parent)
        except OSError as error:
            raise writing_error(self.path, error) from error
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.path

    def close(self) -> None:
        """Leave the build unsealed; a later writer resumes it."""
        for journal in self._journals:
            journal.close()
        self._journals = []
        self._lock.close()

    def __enter__(self) -> EvidenceWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Journal:
    """One shard's append-only file of frames; a frame cut short by a kill is dropped at opening."""

    def __init__(self, file: Path) -> None:
        self.hashes, self.offsets = array("Q"), array("Q")
        self._handle: IO[bytes] = open(file, "a+b", buffering=1 << 20)  # noqa: SIM115 - held until close
        self._end = 0
        size = os.fstat(self._handle.fileno()).st_size
        self._handle.seek(0)
        while self._end + _FRAME.size <= size:
            length, checksum = _FRAME.unpack(self._handle.read(_FRAME.size))
            payload = self._handle.read(length)
            if len(payload) < length or length < _LENGTHS.size or xxh3_64_intdigest(payload) != checksum:
                break
            name_length = _LENGTHS.unpack_from(payload)[0]
            self.hashes.append(hash_of(payload[_LENGTHS.size : _LENGTHS.size + name_length]))
            self.offsets.append(self._end)
            self._end += _FRAME.size + length
        if self._end < size:
            self._handle.truncate(self._end)
        self._handle.seek(0, os.SEEK_END)

    def append(self, entry: Encoded, hashed: int) -> None:
        name, text, details, outcome = entry
        payload = b"".join((_LENGTHS.pack(len(name), len(text), len(details)), name, text, details, outcome))
        self._handle.write(_FRAME.pack(len(payload), xxh3_64_intdigest(payload)) + payload)
        self.hashes.append(hashed)
        self.offsets.append(self._end)
        self._end += _FRAME.size + len(payload)

    def read(self, offset: int) -> tuple[bytes, bytes, bytes, bytes]:
        descriptor = self._handle.fileno()
        length, _ = _FRAME.unpack(os.pread(descriptor, _FRAME.size, offset))
        payload = os.pread(descriptor, length, offset + _FRAME.size)
        name, text, details = _LENGTHS.unpack_from(payload)
        first, second = _LENGTHS.size + name, _LENGTHS.size + name + text
        third = second + details
        return payload[_LENGTHS.size : first], payload[first:second], payload[second:third], payload[third:]

    def names(self) -> Iterator[bytes]:
        for offset in self.offsets:
            yield self.read(offset)[0]

    def flush(self) -> None:
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        self._handle.close()


def _ordered(journal: _Journal) -> Iterator[tuple[int, bytes, bytes, bytes, bytes]]:
    """(hash, name, text, details, outcome) by hash, then name; of several frames of one name the last."""
    hashes = np.frombuffer(journal.hashes, dtype=np.uint64) if len(journal.hashes) else np.empty(0, np.uint64)
    offsets = np.frombuffer(journal.offsets, dtype=np.uint64) if len(journal.offsets) else np.empty(0, np.uint64)
    order = np.argsort(hashes, kind="stable")  # stable: frames of one hash stay in the order they were put
    position = 0
    while position < len(order):
        hashed = int(hashes[order[position]])
        group: dict[bytes, tuple[bytes, bytes, bytes]] = {}
        while position < len(order) and hashes[order[position]] == hashed:
            name, *rest = journal.read(int(offsets[order[position]]))
            group[name] = (rest[0], rest[1], rest[2])
            position += 1
        for name in sorted(group):
            yield hashed, name, *group[name]


def _write_shard(journal: _Journal, folder: Path, tools: Counter[str], outcomes: Counter[str]) -> tuple[int, int]:
    """Write the three files of one shard; returns its entries and slots, and adds to the counts."""
    hashes, starts, names, texts = array("Q"), array("Q"), array("I"), array("I")
    position = 0
    with open(folder / RECORDS, "wb", buffering=1 << 20) as records, open(folder / DETAILS, "wb") as cold:
        blocks = Blocks(cold)
        for ordinal, (hashed, name, text, details, outcome) in enumerate(_ordered(journal)):
            record = name + text + struct.pack("<I", ordinal)
            records.write(record + struct.pack("<Q", xxh3_64_intdigest(record)))
            hashes.append(hashed)
            starts.append(position)
            names.append(len(name))
            texts.append(len(text))
            position += len(name) + len(text) + TAIL.size
            tools[name[: name.index(b"\0")].decode()] += 1
            outcomes[outcome.decode()] += 1
            blocks.append(details)
        blocks.finish()
        _sync_file(records)
        _sync_file(cold)
    entries, bits = len(hashes), table_bits(len(hashes))
    order = np.arange(entries, dtype=np.int64)
    homes = (np.asarray(hashes, dtype=np.uint64) >> np.uint64(HASH_BITS - bits)).astype(np.int64)
    # An entry's slot is its home, or the one after its predecessor's if that is further on.
    places = np.maximum.accumulate(homes - order) + order if entries else order
    slots = max(1 << bits, int(places[-1]) + 1 if entries else 0) + 1
    table = np.zeros(slots, dtype=[("hash", "<u8"), ("start", "<u8"), ("name", "<u4"), ("text", "<u4")])
    table["hash"] = EMPTY
    for column, values in zip(table.dtype.names or (), (hashes, starts, names, texts), strict=True):
        table[column][places] = values
    written = table.tobytes()
    step = GROUP * SLOT.size
    with open(folder / INDEX, "wb") as handle:
        handle.write(written)
        sums = [xxh3_64_intdigest(written[at : at + step]) for at in range(0, len(written), step)]
        handle.write(np.asarray(sums, dtype="<u8").tobytes())
        _sync_file(handle)
    return entries, slots


def _described(file: Path) -> dict[str, Any]:
    with open(file, "rb") as handle:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def _sync_file(handle: IO[bytes]) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
