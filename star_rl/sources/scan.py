"""The native scanner of JSON lines behind typed functions; :mod:`star_rl.sources.sink` compares it with DuckDB."""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

_VERSION = 5
#: Zero bytes that follow a block: the scanner may read them.
PADDING = 64
#: Largest block: offsets are 32 bits wide.
LARGEST = 2**31 - 1024


@dataclass(frozen=True)
class Fields:
    """The fields wanted of a line: ``texts`` as strings (a number as its digits), ``values`` as number or string."""

    texts: tuple[str, ...]
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A field of a block's rows: its strings and its numbers (float64), null where a row has none; None: no row has."""

    text: pa.Array | None = None
    number: pa.Array | None = None


class _Field(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("name_length", ctypes.c_int64),
        ("is_value", ctypes.c_int64),
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
        try:
            library = ctypes.CDLL(str(Path(__file__).parent / f"_scan{suffix}"))
            version = library.star_scan_version()
        except (OSError, AttributeError):
            continue  # not built, or for another machine: Python reads the lines
        if version == _VERSION:
            library.star_scan_lines.restype = ctypes.c_int32
            return library
    return None


def scanner_available() -> bool:
    """Return whether the native scanner was built and loads; without it Python reads, several times slower."""
    return _library() is not None


def _at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(int(array.ctypes.data))


def _room(count: int, kind: type[np.generic] = np.uint8) -> np.ndarray:
    """Return an array straight from the system: only touched pages take memory, and freeing gives them back."""
    size = max(1, count) * np.dtype(kind).itemsize
    return np.frombuffer(mmap.mmap(-1, size), kind, count)


class Scanner:
    """Scans blocks into memory of its own, which the next block overwrites. One per thread, of at most 63 fields."""

    def __init__(self, fields: Fields) -> None:
        self._wanted = [(name, name in fields.values) for name in (*fields.texts, *fields.values)]
        self._size = -1

    def _reserve(self, size: int) -> None:
        """Reserve address space for blocks of ``size`` bytes."""
        rows = size // 3 + 2  # the shortest row is {} and a newline
        self._block = _room(size + PADDING)
        self._lines = _room(rows, np.int32)
        self._odd = _room((size // 2 + 2) * 3, np.int64).reshape(-1, 3)
        self._arrays: list[dict[str, np.ndarray]] = []
        self._table = (_Field * len(self._wanted))()
        for field, (name, is_value) in zip(self._table, self._wanted, strict=True):
            arrays = {
                "offsets": _room(rows + 1, np.int32),
                "data": _room(size + PADDING),
                "valid": _room(rows // 8 + 1),
            }
            if is_value:
                arrays |= {"numbers": _room(rows, np.float64), "numbers_valid": _room(rows // 8 + 1)}
            field.name, field.name_length, field.is_value = name.encode(), len(name.encode()), is_value
            for slot, array in arrays.items():
                setattr(field, slot, _at(array))
            self._arrays.append(arrays)
        self._size = size

    def scan(self, block: bytes) -> tuple[int, np.ndarray, dict[str, Column], np.ndarray]:
        """Scan whole lines, at most :data:`LARGEST` bytes.

        Returns:
            the number of lines; each row's line, from 0, shape (n,) int32; the columns; and of each line left to
            Python its number, first byte and end, shape (k, 3) int64.
        """
        size = len(block)
        if size > self._size:
            self._reserve(size)
        self._block[:size] = np.frombuffer(block, np.uint8)
        self._block[size : size + PADDING] = 0
        library = _library()
        assert library is not None
        counts = np.zeros(2, np.int64)
        out = map(_at, (self._lines, self._odd, counts))
        rows = library.star_scan_lines(
            _at(self._block), ctypes.c_int64(size), self._table, ctypes.c_int32(len(self._table)), *out
        )
        columns: dict[str, Column] = {}
        for (name, _), field, arrays in zip(self._wanted, self._table, self._arrays, strict=True):
            text = number = None
            if field.texts:
                valid = pa.py_buffer(arrays["valid"]) if field.texts < rows else None
                parts = [pa.py_buffer(arrays["offsets"][: rows + 1]), pa.py_buffer(arrays["data"][: field.used])]
                text = pa.Array.from_buffers(pa.string(), rows, [valid, *parts])
            if field.values:
                valid = pa.py_buffer(arrays["numbers_valid"]) if field.values < rows else None
                number = pa.Array.from_buffers(pa.float64(), rows, [valid, pa.py_buffer(arrays["numbers"][:rows])])
            columns[name] = Column(text, number)
        return int(counts[0]), self._lines[:rows], columns, self._odd[: counts[1]]
