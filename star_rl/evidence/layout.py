"""The bytes of one shard of a sealed store: how records are found, checked and read.

A shard is three files, written once and then only mapped:

``records.bin``
    One record an entry, ordered by the hash of its name (``tool \\0 id``), then by name: the name and the text, both
    UTF-8, the record's ordinal as a uint32, and a checksum of these three.
``index.bin``
    A hash table of 24-byte slots: hash of the name, offset of the record, lengths of name and text. An entry's slot is
    the first free one from ``hash >> (60 - bits)`` on; as records are in the order of their hashes, so are the slots,
    and a search ends at the first larger hash. At most two fifths of the slots are taken. A checksum of every 128 slots
    follows.
``details.bin``
    Neighbours and structured evidence, in record order (:mod:`star_rl.evidence.details`).

All numbers are little-endian; hashes and checksums are XXH3. The idea is that of D. J. Bernstein's "constant database"
(cdb), with 64-bit offsets. Nothing is locked and nothing is parsed at opening; every process that maps the files
shares one page cache (:class:`Pages` where a file is not on a disk of this machine). A record is checked when a process
first reads it, and "not stored" every time it is said, so that a flipped bit in a file is an error and never a wrong
answer.
"""

from __future__ import annotations

import functools
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from xxhash import xxh3_64_intdigest

from star_rl.evidence.details import Details, damaged
from star_rl.evidence.storage import on_local_disk

RECORDS, INDEX, DETAILS = "records.bin", "index.bin", "details.bin"
FILES = (RECORDS, INDEX, DETAILS)

#: hash of the name, offset of the record, bytes of the name, bytes of the text.
SLOT = struct.Struct("<QQII")
#: Hashes have 60 bits, so that an empty slot's hash is larger than any and ends a search.
HASH_BITS = 60
EMPTY = (1 << 64) - 1
#: Slots under one checksum.
GROUP = 128
#: End of a record: its ordinal, and the checksum of all before it and of the ordinal.
TAIL = struct.Struct("<IQ")


def name_of(tool: str, key: str) -> bytes:
    """The name under which an entry is stored; a tool's name never holds a zero byte, so names are unambiguous."""
    return tool.encode() + b"\0" + key.encode()


def hash_of(name: bytes) -> int:
    return xxh3_64_intdigest(name) >> 4


def table_bits(entries: int) -> int:
    """Bits of the home slot: at least two and a half slots an entry, so that runs of taken slots stay short."""
    return max(1, (2 * entries + entries // 2).bit_length())


class Shard:
    """One mapped shard.

    Args:
        folder: where the three files are.
        entries: number of records (from the manifest).
        slots: number of slots (from the manifest).
        sizes: bytes of each file (from the manifest).
        block: entries of a block of details (from the manifest).
        form: the store's format (from the manifest).

    Raises:
        StarError: a file is absent or has another length than the manifest says.
    """

    __slots__ = ("details", "folder", "index", "last", "records", "shift", "slot", "slots", "sound")

    def __init__(self, folder: Path, entries: int, slots: int, sizes: dict[str, int], block: int, form: int) -> None:
        self.folder, self.slots = folder, slots
        self.shift = HASH_BITS - table_bits(entries)
        opened = {name: _open(folder / name, sizes[name]) for name in FILES}
        self.records, self.index = opened[RECORDS], opened[INDEX]
        self.slot = _slots(self.index)
        self.details = Details(opened[DETAILS], folder / DETAILS, entries, block, form)
        if len(self.index) != slots * SLOT.size + -(-slots // GROUP) * 8 or slots <= 1 << table_bits(entries):
            raise damaged(folder / INDEX, f"{len(self.index)} bytes do not fit {entries} entries")
        # What was found last: neighbours are asked for right after the text, and need not be searched for anew.
        self.last: tuple[bytes, bytes, int] = (b"", b"", 0)
        # 1 where this process has checked the slot's record; zeroed by the kernel, and only where it is touched.
        self.sound = mmap.mmap(-1, slots, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def text(self, name: bytes, hashed: int) -> str | None:
        """The text stored under ``name``, or ``None``.

        Raises:
            StarError: the bytes on the way to the answer are damaged.
        """
        slot_at, slot = self.slot, hashed >> self.shift
        found, start, name_length, text_length = slot_at(slot * 24)
        while found < hashed:
            slot += 1
            found, start, name_length, text_length = slot_at(slot * 24)
        if found == hashed and self.sound[slot]:
            records, begins = self.records, start + name_length
            if records[start:begins] == name:
                return records[begins : begins + text_length].decode()
        checked = self.find(name, hashed)  # read for the first time, absent, or one of two names with one hash
        return None if checked is None else checked[0].decode()

    def find(self, name: bytes, hashed: int) -> tuple[bytes, int] | None:
        """Text and ordinal of ``name``, every byte on the way checked; ``None`` when it is not stored.

        Raises:
            StarError: the bytes on the way to the answer are damaged.
        """
        last = self.last
        if last[0] == name:
            return last[1:]
        slot = hashed >> self.shift
        sound = -1
        while slot < self.slots:
            if slot // GROUP != sound:
                sound = slot // GROUP
                self._check_group(sound)
            found = self.slot(slot * SLOT.size)
            if found[0] > hashed:
                return None
            if found[0] == hashed:
                stored, text, ordinal = self._record(*found[1:])
                self.sound[slot] = 1
                if stored == name:
                    self.last = (name, text, ordinal)
                    return text, ordinal
            slot += 1
        raise damaged(self.folder / INDEX, "it has no last empty slot")

    def scan(self) -> Iterator[bytes]:
        """Names of all records, each checked."""
        for group in range(-(-self.slots // GROUP)):
            self._check_group(group)
            for slot in range(group * GROUP, min((group + 1) * GROUP, self.slots)):
                found = self.slot(slot * SLOT.size)
                if found[0] != EMPTY:
                    yield self._record(*found[1:])[0]

    def close(self) -> None:
        for opened in (self.records, self.index, self.details.mapped, self.sound):
            if isinstance(opened, (mmap.mmap, Pages)):
                opened.close()

    def _record(self, start: int, name_length: int, text_length: int) -> tuple[bytes, bytes, int]:
        after = name_length + text_length
        record = self.records[start : start + after + TAIL.size]
        if len(record) == after + TAIL.size:
            ordinal, checksum = TAIL.unpack_from(record, after)
            if xxh3_64_intdigest(record[:-8]) == checksum:
                return record[:name_length], record[name_length:after], ordinal
        raise damaged(self.folder / RECORDS, f"the record at byte {start} fails its checksum")

    def _check_group(self, group: int) -> None:
        low, high = group * GROUP * SLOT.size, min((group + 1) * GROUP, self.slots) * SLOT.size
        place = self.slots * SLOT.size + group * 8
        (stored,) = struct.unpack("<Q", self.index[place : place + 8])
        if xxh3_64_intdigest(self.index[low:high]) != stored:
            raise damaged(self.folder / INDEX, f"bytes {low} to {high} fail their checksum")


class Pages:
    """A file that is read piece by piece, as a mapped one is sliced.

    A file system over the network may stop answering. Python holds its lock while it waits for a mapped page, and with
    it every thread of the process; while it waits for a read the others go on, and the caller's limit of time holds.
    """

    __slots__ = ("_descriptor", "_size")

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, piece: slice) -> bytes:
        start, stop, _ = piece.indices(self._size)
        return os.pread(self._descriptor, max(0, stop - start), start)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


Bytes = mmap.mmap | Pages | bytes


def _slots(index: Bytes) -> Callable[[int], tuple[int, int, int, int]]:
    """Where a slot begins -> its four numbers."""
    if isinstance(index, Pages):
        return lambda place: SLOT.unpack(index[place : place + SLOT.size])
    return functools.partial(SLOT.unpack_from, index)


def _open(file: Path, size: int) -> Bytes:
    """The bytes of a file: mapped where its disk always answers, else read as they are asked for."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise damaged(file, "it is absent") from error
    kept = False
    try:
        found = os.fstat(descriptor).st_size
        if found != size:
            raise damaged(file, f"it has {found} bytes, the manifest says {size}")
        if not size:
            return b""
        if on_local_disk(file.parent):
            return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        kept = True
        return Pages(descriptor, size)
    finally:
        if not kept:
            os.close(descriptor)
