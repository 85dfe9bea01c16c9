"""What a shard keeps beside its texts: neighbours and structured evidence, in compressed blocks of a few entries.

A block of format 2::

    checksum of all that follows            uint64
    bytes of the rest once decompressed     uint32
    an entry: end of its ids in the block, their bytes once decompressed    2 uint32
    the ids of each entry                   a zstd frame of its own, none where there are no neighbours
    the rest of all entries                 one zstd frame

Ids stand apart, each followed by a newline, because the lens of the policy's tools reads them alone and reads them in
the middle of a rollout: one small frame instead of a block of JSON. The rest of an entry is its number of neighbours
(uint32), the bytes of a weight (4 where all of them are exact in 32 bits, else 8), whether there are supports (uint8
both), the weights, the supports (uint32), and the structured evidence in JSON. Before the entries' own bytes stands
where each begins and the last ends (uint32). After the blocks stands where each block begins and the last ends
(uint64). All numbers are little-endian, checksums are XXH3.

Format 1, which is still read, has one zstd frame a block with each entry in JSON.
"""

from __future__ import annotations

import json
import struct
import sys
import threading
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Protocol

from xxhash import xxh3_64_intdigest
from zstandard import ZstdCompressor, ZstdDecompressor

from star_rl.errors import StarError

#: Entries of a block. With 64 a store is 2 % smaller, and one entry takes several times as long to unpack.
BLOCK_ENTRIES = 8
_RANGE = struct.Struct("<QQ")
_HEAD = struct.Struct("<QI")
_IDS = struct.Struct("<II")
_COUNTS = struct.Struct("<IBB")
_LENGTH = struct.Struct("<I")


#: Level of compression.
LEVEL = 3


class _Unpacker(threading.local):
    """A decompressor a thread: it must not be shared, and to make one for each frame takes longer than the frame."""

    def __init__(self) -> None:
        self.unpack = ZstdDecompressor().decompress


_unpacker = _Unpacker()


def damaged(file: Path, how: str) -> StarError:
    """The error of a store that is not what was sealed."""
    return StarError(f"the evidence store is damaged: {file}: {how}", "copy the store anew, or build it again")


def pack(neighbours: Iterable[Sequence[Any]], structured: Any) -> bytes:
    """The details of one entry: bytes of its ids, the ids, the rest.

    Raises:
        StarError: a neighbour is not (id, weight) or (id, weight, support).
        UnicodeEncodeError: an id or the evidence is not valid Unicode.
    """
    try:
        names, weights, *supports = list(zip(*neighbours, strict=True)) or [(), ()]
        ids = _joined(names).encode()
        wide, narrow = array("d", weights), array("f", weights)
        written = narrow if narrow == wide else wide
        counts = array("I", *supports)
    except UnicodeEncodeError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise StarError(
            f"neighbours cannot be stored ({error})", "give (id, weight) or (id, weight, support), all of one length"
        ) from error
    head = _COUNTS.pack(len(names), written.itemsize, len(supports))
    said = json.dumps(structured, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(ids)), ids, head, _bytes(written), _bytes(counts), said))


def _joined(names: Sequence[str]) -> str:
    """Ids, each with a newline behind it; newlines and backslashes of their own escaped."""
    text = "\n".join([*names, ""])
    if "\\" in text or text.count("\n") != len(names):
        text = "".join([name.replace("\\", "\\\\").replace("\n", "\\n") + "\n" for name in names])
    return text


def _apart(text: str) -> list[str]:
    names = text.split("\n")
    names.pop()
    if "\\" in text:
        names = ["\\".join([part.replace("\\n", "\n") for part in name.split("\\\\")]) for name in names]
    return names


def _bytes(values: array[Any]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


class _Sliced(Protocol):
    """The bytes of a file: mapped, or read as they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, piece: slice, /) -> bytes: ...


class Details:
    """The mapped details of a shard.

    Args:
        mapped: the file's bytes.
        file: its path, for messages.
        entries: entries of the shard.
        block: entries of a block.
        form: the store's format, 1 or 2.
    """

    __slots__ = ("block", "entries", "file", "form", "mapped")

    def __init__(self, mapped: _Sliced, file: Path, entries: int, block: int, form: int) -> None:
        self.mapped, self.file, self.entries, self.block, self.form = mapped, file, entries, block, form

    def ids(self, ordinal: int) -> list[str]:
        """Ids of an entry's neighbours, strongest first.

        Raises:
            StarError: the block's bytes are damaged; so of :meth:`fields`.
        """
        if self.form == 1:
            return [row[0] for row in self.fields(ordinal)["neighbours"]]
        return self._ids(self._block(ordinal), ordinal)

    def fields(self, ordinal: int) -> dict[str, Any]:
        """``{neighbours: [[id, weight[, support]]], structured}`` of an entry."""
        block = self._block(ordinal)
        if self.form == 1:
            return json.loads(self._rest(block, _HEAD.size, ordinal))
        rest = self._rest(block, _IDS.unpack_from(block, self._place(self._last(ordinal)))[0], ordinal)
        count, width, supported = _COUNTS.unpack_from(rest)
        start = _COUNTS.size + count * width
        weights = struct.unpack_from(f"<{count}{'f' if width == 4 else 'd'}", rest, _COUNTS.size)
        columns: list[Sequence[Any]] = [self._ids(block, ordinal), weights]
        if supported:
            columns.append(struct.unpack_from(f"<{count}I", rest, start))
            start += 4 * count
        return {
            "neighbours": [list(row) for row in zip(*columns, strict=True)],
            "structured": json.loads(rest[start:]),
        }

    def _block(self, ordinal: int) -> bytes:
        """The checked block of an entry."""
        blocks = -(-self.entries // self.block)
        table = len(self.mapped) - 8 * (blocks + 1)
        place = table + 8 * (ordinal // self.block)
        start, end = _RANGE.unpack(self.mapped[place : place + _RANGE.size])
        block = self.mapped[start:end]
        if len(block) < _HEAD.size or xxh3_64_intdigest(memoryview(block)[8:]) != _HEAD.unpack_from(block)[0]:
            raise damaged(self.file, f"the block at byte {start} fails its checksum")
        return block

    def _last(self, ordinal: int) -> int:
        """Ordinal of the last entry of an entry's block."""
        return min((ordinal // self.block + 1) * self.block, self.entries) - 1

    def _place(self, ordinal: int) -> int:
        """Where a block says where an entry's ids end."""
        return _HEAD.size + _IDS.size * (ordinal % self.block)

    def _ids(self, block: bytes, ordinal: int) -> list[str]:
        place = self._place(ordinal)
        end, size = _IDS.unpack_from(block, place)
        if not size:
            return []
        first = ordinal % self.block == 0
        start = self._place(self._last(ordinal)) + _IDS.size if first else _IDS.unpack_from(block, place - _IDS.size)[0]
        return _apart(_unpacker.unpack(block[start:end], size).decode())

    def _rest(self, block: bytes, start: int, ordinal: int) -> bytes:
        plain = _unpacker.unpack(block[start:], _HEAD.unpack_from(block)[1])
        return plain[slice(*_IDS.unpack_from(plain, 4 * (ordinal % self.block)))]


class Blocks:
    """Writes what :func:`pack` made, in blocks, and at the end where each block is."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle, self._compress = handle, ZstdCompressor(LEVEL).compress
        self._ends, self._pending = array("Q", [0]), list[bytes]()

    def append(self, details: bytes) -> None:
        self._pending.append(details)
        if len(self._pending) == BLOCK_ENTRIES:
            self._write()

    def finish(self) -> None:
        if self._pending:
            self._write()
        self._handle.write(_bytes(self._ends))

    def _write(self) -> None:
        sizes = [_LENGTH.unpack_from(details)[0] for details in self._pending]
        begins = [_LENGTH.size + size for size in sizes]
        packed = [
            self._compress(details[_LENGTH.size : begin]) if size else b""
            for details, begin, size in zip(self._pending, begins, sizes, strict=True)
        ]
        rests = [details[begin:] for details, begin in zip(self._pending, begins, strict=True)]
        offsets = accumulate(map(len, rests), initial=_LENGTH.size * (len(rests) + 1))
        plain = b"".join([*map(_LENGTH.pack, offsets), *rests])
        ends = accumulate(map(len, packed), initial=_HEAD.size + _IDS.size * len(packed))
        next(ends)
        table = [_IDS.pack(end, size) for end, size in zip(ends, sizes, strict=True)]
        body = b"".join([_LENGTH.pack(len(plain)), *table, *packed, self._compress(plain)])
        self._handle.write(struct.pack("<Q", xxh3_64_intdigest(body)) + body)
        self._ends.append(self._ends[-1] + 8 + len(body))
        self._pending = []
