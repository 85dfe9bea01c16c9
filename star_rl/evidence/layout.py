"""The bytes of one shard of a sealed store: how records are found, checked and read.

A shard is three files, written once and then only mapped:

``records.bin``
    One record an entry, ordered by the 32-bit hash of its name (``tool \\0 id``), then by name. A record is
    ``crc, name length, text length, ordinal`` (four little-endian uint32), the name and the text, both UTF-8.
``index.bin``
    A directory of ``2**bits + 1`` uint64 offsets into ``records.bin``: bucket ``b`` holds the records whose hash has
    ``b`` as its top bits. There are at least twice as many buckets as records, so a look-up reads one pair of
    offsets and, as a rule, one record. A CRC of every 512 offsets follows.
``details.bin``
    What the hot path never reads (neighbours, structured evidence): zstd blocks of 64 entries in record order, then the
    uint64 offset of every block and of their end.

It is D. J. Bernstein's "constant database" (cdb) with 64-bit offsets and the chain of a bucket made contiguous by
sorting. Nothing is locked and nothing is parsed at opening; every process that maps the files shares one page cache.
Every answer is checked against its record's CRC, so that a flipped bit is an error and never a wrong answer.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from star_rl.errors import StarError

RECORDS, INDEX, DETAILS = "records.bin", "index.bin", "details.bin"
FILES = (RECORDS, INDEX, DETAILS)

#: crc (of all that follows it in the record), name length, text length, ordinal within the shard.
HEADER = struct.Struct("<IIII")
RANGE = struct.Struct("<QQ")
#: Head of a block of details: CRC of what follows, bytes of the decompressed block.
BLOCK = struct.Struct("<II")
BLOCK_ENTRIES = 64
#: Offsets of the directory under one CRC.
INDEX_GROUP = 512
_READ_HEADER = HEADER.unpack_from
_READ_RANGE = RANGE.unpack_from


def name_of(tool: str, key: str) -> bytes:
    """The name under which an entry is stored; a tool's name never holds a zero byte, so names are unambiguous."""
    return tool.encode() + b"\0" + key.encode()


def bucket_bits(entries: int) -> int:
    """Bits of the directory: at least two buckets a record (half of them empty), at least two buckets."""
    return max(1, (2 * entries - 1).bit_length()) if entries else 1


def codec() -> object:
    """The zstd codec of pyarrow (imported only when details are written or read)."""
    import pyarrow as pa

    return pa.Codec("zstd", compression_level=3)


class Shard:
    """One mapped shard.

    Args:
        folder: where the three files are.
        entries: number of records (from the manifest).
        sizes: bytes of each file (from the manifest).

    Raises:
        StarError: a file is absent or has another length than the manifest says.
    """

    __slots__ = ("bits", "details", "entries", "folder", "index", "records", "shift")

    def __init__(self, folder: Path, entries: int, sizes: dict[str, int]) -> None:
        self.folder, self.entries = folder, entries
        self.bits = bucket_bits(entries)
        self.shift = 32 - self.bits
        self.records = _map(folder / RECORDS, sizes[RECORDS])
        self.index = _map(folder / INDEX, sizes[INDEX])
        self.details = _map(folder / DETAILS, sizes[DETAILS])
        if len(self.index) != index_bytes(self.bits):
            raise _damaged(folder / INDEX, f"{len(self.index)} bytes do not fit {entries} entries")

    def find(self, name: bytes, hashed: int) -> tuple[bytes, int] | None:
        """Text and ordinal of ``name``; ``None`` when it is not stored.

        Raises:
            StarError: the bytes on the way to the answer are damaged.
        """
        records = self.records
        start, end = _READ_RANGE(self.index, (hashed >> self.shift) * 8)
        position = start
        try:
            while position < end:
                crc, name_length, text_length, ordinal = _READ_HEADER(records, position)
                after = position + 16 + name_length + text_length
                if name_length == len(name) and records[position + 16 : position + 16 + name_length] == name:
                    body = records[position + 4 : after]
                    if crc32(body) != crc:
                        raise _damaged(self.folder / RECORDS, f"the record at byte {position} fails its CRC")
                    return body[12 + name_length :], ordinal
                position = after
        except struct.error as error:
            raise _damaged(self.folder / RECORDS, f"byte {position} is outside the file") from error
        self._check_bucket(hashed >> self.shift, start, end)
        return None

    def _check_bucket(self, bucket: int, start: int, end: int) -> None:
        """Before "not stored" is answered: the directory's group and the records of the bucket must be sound."""
        for group in {bucket // INDEX_GROUP, (bucket + 1) // INDEX_GROUP}:
            offsets = (1 << self.bits) + 1
            low, high = group * INDEX_GROUP * 8, min((group + 1) * INDEX_GROUP, offsets) * 8
            (stored,) = struct.unpack_from("<I", self.index, offsets * 8 + group * 4)
            if crc32(self.index[low:high]) != stored:
                raise _damaged(self.folder / INDEX, f"bytes {low} to {high} fail their CRC")
        for _ in self.scan(start, end):
            pass

    def scan(self, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield (name, text, ordinal) of every record between two offsets, each checked."""
        records = self.records
        end = len(records) if end is None else end
        position = start
        while position < end:
            if position + 16 > len(records):
                raise _damaged(self.folder / RECORDS, f"byte {position} is outside the file")
            crc, name_length, text_length, ordinal = _READ_HEADER(records, position)
            body = records[position + 4 : position + 16 + name_length + text_length]
            if crc32(body) != crc:
                raise _damaged(self.folder / RECORDS, f"the record at byte {position} fails its CRC")
            yield body[12 : 12 + name_length], body[12 + name_length :], ordinal
            position += 16 + name_length + text_length

    def detail(self, ordinal: int) -> bytes:
        """The details of one record, as the JSON they were written in."""
        blocks = -(-self.entries // BLOCK_ENTRIES)
        table = len(self.details) - 8 * (blocks + 1)
        start, end = _READ_RANGE(self.details, table + 8 * (ordinal // BLOCK_ENTRIES))
        block = self.details[start:end]
        if len(block) < BLOCK.size or crc32(block[4:]) != BLOCK.unpack_from(block)[0]:
            raise _damaged(self.folder / DETAILS, f"the block at byte {start} fails its CRC")
        plain = codec().decompress(block[BLOCK.size :], BLOCK.unpack_from(block)[1], asbytes=True)  # type: ignore[attr-defined]
        first, last = struct.unpack_from("<II", plain, 4 * (ordinal % BLOCK_ENTRIES))
        return plain[first:last]

    def close(self) -> None:
        for mapped in (self.records, self.index, self.details):
            if isinstance(mapped, mmap.mmap):
                mapped.close()


def index_bytes(bits: int) -> int:
    """Length of ``index.bin``: the offsets and the CRC of every group of them."""
    offsets = (1 << bits) + 1
    return offsets * 8 + -(-offsets // INDEX_GROUP) * 4


def _map(file: Path, size: int) -> mmap.mmap | bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError as error:
        raise _damaged(file, "it is absent") from error
    try:
        found = os.fstat(descriptor).st_size
        if found != size:
            raise _damaged(file, f"it has {found} bytes, the manifest says {size}")
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) if size else b""
    finally:
        os.close(descriptor)


def _damaged(file: Path, how: str) -> StarError:
    return StarError(f"the evidence store is damaged: {file}: {how}", "copy the store anew, or build it again")
