"""Raw files as blocks of whole lines, plain or gzip, with the number of each block's first line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from star_rl.errors import StarError

#: Bytes of one block: large enough for a vectorised reader, small enough that a handful of them are nothing.
BLOCK = 16 << 20


def open_raw(path: str | Path) -> IO[bytes]:
    """Open a file for reading bytes; gzip is told by its first two bytes, not by its name.

    Raises:
        StarError: the file is absent, is a folder, or may not be read.
    """
    try:
        handle = open(path, "rb")  # noqa: SIM115 - handed to the caller
    except FileNotFoundError as error:
        raise StarError(f"there is no file {path}", "check the source's root folder") from error
    except OSError as error:
        raise StarError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from error
    magic = handle.read(2)
    handle.seek(0)
    return gzip.GzipFile(fileobj=handle) if magic == b"\x1f\x8b" else handle  # type: ignore[return-value]


def blocks(path: str | Path, size: int = BLOCK) -> Iterator[tuple[int, bytes, int]]:
    """Yield ``(number of the first line, bytes of whole lines, how many)``; lines count from 1.

    A last line without a newline is yielded as it stands, so that a line cut in the middle is judged by its parser.

    Raises:
        StarError: a gzip stream ends early or is damaged.
    """
    line = 1
    with open_raw(path) as handle:
        rest = b""
        while True:
            try:
                block = handle.read(size)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise StarError(
                    f"{path} is a damaged gzip file: {error} (after line {line - 1 + rest.count(10)})",
                    "fetch or compress the file again",
                ) from error
            if not block:
                break
            cut = block.rfind(b"\n") + 1
            if not cut:
                rest += block
                continue
            whole = rest + block[:cut] if rest else block if cut == len(block) else block[:cut]
            rest = block[cut:]
            if rest and not isinstance(handle, gzip.GzipFile):
                handle.seek(-len(rest), 1)  # cheaper than to join it to the next block, a copy of every byte
                rest = b""
            if line == 1 and whole.startswith(b"\xef\xbb\xbf"):
                whole = whole[3:]
            count = int(np.count_nonzero(np.frombuffer(whole, np.uint8) == 10))
            yield line, whole, count
            line += count
        if rest:
            yield line, rest[3:] if line == 1 and rest.startswith(b"\xef\xbb\xbf") else rest, 1


@dataclass(frozen=True)
class Chunk:
    """Whole lines of a file that are still to be read: ``size`` bytes from ``start``, or ``data`` of a packed file."""

    path: Path
    start: int
    size: int
    data: bytes | None = None

    def read_into(self, memory: np.ndarray) -> int:
        """Read the bytes into the front of ``memory`` (uint8); returns how many there are."""
        if self.data is not None:
            memory[: self.size] = np.frombuffer(self.data, np.uint8)
            return self.size
        with open(self.path, "rb", buffering=0) as handle:
            handle.seek(self.start)
            view, done = memoryview(memory[: self.size].data), 0
            while done < self.size and (count := handle.readinto(view[done:])):
                done += count
        return done

    def read(self) -> bytes:
        """The bytes."""
        if self.data is not None:
            return self.data
        with open(self.path, "rb") as handle:
            handle.seek(self.start)
            return handle.read(self.size)


def chunks(path: str | Path, size: int = BLOCK) -> Iterator[Chunk]:
    """Cut a file into chunks of whole lines without reading it; a packed one is unpacked here, chunk by chunk.

    Both are cut at the same lines, so that the tables of a file and of its packed copy are the same to the byte.

    Raises:
        StarError: the file is absent, or a gzip stream ends early or is damaged.
    """
    path = Path(path)
    with open_raw(path) as handle:
        if isinstance(handle, gzip.GzipFile):
            for _, block, _ in blocks(path, size):
                yield Chunk(path, 0, len(block), block)
            return
        end = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        start = 3 if handle.read(3) == b"\xef\xbb\xbf" else 0
        for edge in range(size, end + size, size):
            stop = _after_newline(handle, max(start, edge - size), min(edge, end))
            if stop > start:
                yield Chunk(path, start, stop - start)
                start = stop
        if start < end:
            yield Chunk(path, start, end - start)


def _after_newline(handle: IO[bytes], low: int, high: int) -> int:
    """The place behind the last newline between ``low`` and ``high``, else 0."""
    while high > low:
        step = max(low, high - (1 << 12))
        handle.seek(step)
        cut = handle.read(high - step).rfind(b"\n")
        if cut >= 0:
            return step + cut + 1
        high = step
    return 0


def first_line(path: str | Path) -> str:
    """The first line of a file, decoded leniently; empty for an empty file."""
    with open_raw(path) as handle:
        try:
            return io.BufferedReader(handle).readline(1 << 20).decode("utf-8-sig", "replace").rstrip("\r\n")  # type: ignore[type-var]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise StarError(f"{path} is a damaged gzip file: {error}", "fetch or compress the file again") from error
