"""The native scanner of JSON lines, and its sort, behind typed functions; :func:`scanner_available` tells of them.

:mod:`star_rl.sources.sink` says by how much DuckDB lost against it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

_VERSION = 4
#: Bytes after a block that the scanner may read; they are zero.
PADDING = 64
#: Largest block: offsets are 32 bits wide.
LARGEST = 2**31 - 1024

TEXT, VALUE, REFUSED, STRING = 0, 1, 2, 3


@dataclass(frozen=True)
class Fields:
    """What is wanted of a line.

    Attributes:
        texts: fields read as strings; a number counts as its digits.
        values: fields that hold numbers or strings, and are kept as what they are.
        strings: fields that are strings; a line is odd that has another value there.
        refused: fields of which a line is odd that has one.
    """

    texts: tuple[str, ...]
    values: tuple[str, ...] = ()
    strings: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def kinds(self) -> list[tuple[str, int]]:
        """Name and kind of every field; those without a column come last."""
        every = ((self.texts, TEXT), (self.values, VALUE), (self.strings, STRING), (self.refused, REFUSED))
        return [(name, kind) for names, kind in every for name in names]


@dataclass(frozen=True)
class Column:
    """A field of the rows of a block: its strings and its numbers, null where a row has no such; None: no row has."""

    text: pa.Array | None = None
    number: pa.Array | None = None


@dataclass(frozen=True)
class Scanned:
    """What the scanner made of a block.

    Attributes:
        count: lines of the block. lines: number of each row's line, from 0, shape (n,) int32.
        odd: line number, first byte and end of each line left to Python, shape (k, 3) int64.
    """

    count: int
    lines: np.ndarray
    odd: np.ndarray
    columns: dict[str, Column]


class _Field(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("name_length", ctypes.c_int64),
        ("kind", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("valid", ctypes.c_void_p),
        ("numbers", ctypes.c_void_p),
        ("numbers_valid", ctypes.c_void_p),
        ("used", ctypes.c_int64),
        ("texts", ctypes.c_int64),
        ("values", ctypes.c_int64),
    )


@functools.cache
def _library() -> ctypes.CDLL | None:
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        file = Path(__file__).parent / f"_scan{suffix}"
        if not file.exists():
            continue
        try:
            library = ctypes.CDLL(str(file))
            version = library.star_scan_version()
        except (OSError, AttributeError):
            continue  # built for another machine: Python takes over
        if version == _VERSION:
            library.star_scan_lines.restype = library.star_scan_order.restype = ctypes.c_int32
            return library
    return None


def scanner_available() -> bool:
    """Whether the native scanner was built and loads here; without it Python reads the lines, several times slower."""
    return _library() is not None


def _at(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def native_order(keys: pa.Array, stamps: np.ndarray | None) -> np.ndarray | None:
    """Stable order of strings, equal ones by ``stamps`` (int64); None where the native code cannot give it.

    Args:
        keys: strings without nulls, shape (n,). stamps: shape (n,).

    Returns:
        shape (n,), int64.
    """
    library = _library()
    if library is None or not pa.types.is_string(keys.type) or keys.null_count or not len(keys):
        return None
    _, index, data = keys.buffers()
    offsets = np.frombuffer(index, np.int32)[keys.offset : keys.offset + len(keys) + 1]
    out = np.empty(len(keys), np.int64)
    stamps = None if stamps is None else np.ascontiguousarray(stamps, np.int64)
    failed = library.star_scan_order(
        ctypes.c_int64(len(keys)),
        ctypes.c_void_p(_at(offsets)),
        ctypes.c_void_p(data.address if data is not None else None),
        None if stamps is None else ctypes.c_void_p(_at(stamps)),
        ctypes.c_void_p(_at(out)),
    )
    return None if failed else out


def room(count: int, kind: type[np.generic] = np.uint8) -> np.ndarray:
    """An array straight from the system, which has it back when it is freed; memory is what is touched of it."""
    size = max(1, count) * np.dtype(kind).itemsize
    return np.frombuffer(mmap.mmap(-1, size), kind, count)


class Scanner:
    """Scans blocks into memory of its own, which the next block overwrites. One per thread.

    Raises:
        RuntimeError: the scanner was not built.
    """

    def __init__(self, fields: Fields) -> None:
        if not scanner_available():
            raise RuntimeError("star_rl.sources._scan was not built")
        if len(fields.kinds()) > 63:
            raise ValueError("the scanner takes 63 fields")
        self.fields = fields
        self._size = -1

    def _reserve(self, size: int) -> None:
        """Address space for a block of ``size`` bytes; memory is what a block touches of it."""
        rows = size // 3 + 2  # the shortest row is {} and a newline
        self._lines = room(rows, np.int32)
        self._odd = room((size // 2 + 2) * 3, np.int64).reshape(-1, 3)
        self._arrays: list[dict[str, np.ndarray]] = []
        wanted = self.fields.kinds()
        self._table = (_Field * len(wanted))()
        for field, (name, kind) in zip(self._table, wanted, strict=True):
            arrays: dict[str, np.ndarray] = {}
            if kind != REFUSED:
                arrays["offsets"] = room(rows + 1, np.int32)
                arrays["data"] = room(size + PADDING)
                arrays["valid"] = room(rows // 8 + 1)
            if kind == VALUE:
                arrays["numbers"] = room(rows, np.float64)
                arrays["numbers_valid"] = room(rows // 8 + 1)
            field.name, field.kind = name.encode(), kind
            field.name_length = len(name.encode())
            for slot, array in arrays.items():
                setattr(field, slot, _at(array))
            self._arrays.append(arrays)
        self._size = size

    def scan(self, block: np.ndarray, size: int) -> Scanned:
        """Scan the first ``size`` bytes of ``block`` (uint8, followed by :data:`PADDING` zeros)."""
        if size > LARGEST or len(block) < size + PADDING or block[size : size + PADDING].any():
            raise ValueError("the block is too large, or not followed by zeros")
        if size > self._size:
            self._reserve(size)
        library = _library()
        assert library is not None
        counts = np.zeros(2, np.int64)
        pointers = [ctypes.c_void_p(_at(array)) for array in (block, self._lines, self._odd, counts)]
        rows = library.star_scan_lines(
            pointers[0], ctypes.c_int64(size), self._table, ctypes.c_int32(len(self._table)), *pointers[1:]
        )
        columns: dict[str, Column] = {}
        for (name, kind), field, arrays in zip(self.fields.kinds(), self._table, self._arrays, strict=True):
            if kind == REFUSED:
                continue
            text = number = None
            if field.texts:
                valid = pa.py_buffer(arrays["valid"]) if field.texts < rows else None
                buffers = [
                    valid,
                    pa.py_buffer(arrays["offsets"][: rows + 1]),
                    pa.py_buffer(arrays["data"][: field.used]),
                ]
                text = pa.Array.from_buffers(pa.string(), rows, buffers)
            if field.values:
                valid = pa.py_buffer(arrays["numbers_valid"]) if field.values < rows else None
                number = pa.Array.from_buffers(pa.float64(), rows, [valid, pa.py_buffer(arrays["numbers"][:rows])])
            columns[name] = Column(text, number)
        return Scanned(int(counts[0]), self._lines[:rows], self._odd[: counts[1]], columns)
