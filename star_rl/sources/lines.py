"""Raw files as blocks of whole lines, plain or gzip, with the number of each block's first line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from star_rl.errors import StarError

#: Bytes of one block: enough for a vectorised reader, and little enough for the cache.
BLOCK = 4 << 20
_BOM = b"\xef\xbb\xbf"


def open_raw(path: str | Path) -> IO[bytes]:
    """Open a file for reading bytes; gzip is recognised by its first two bytes, not by its name.

    Raises:
        StarError: the file is missing, is a folder, or may not be read.
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


def blocks(path: str | Path, size: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """Yield ``(number of the first line, whole lines)``: ``size`` bytes and the rest of their last line.

    Lines count from 1. A last line without a newline is yielded as it stands: its parser decides whether it is cut.

    Raises:
        StarError: the file is missing, or a gzip stream is cut or damaged.
    """
    line = 1
    with open_raw(path) as handle:
        while True:
            try:
                block = handle.read(size) + handle.readline()
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise StarError(
                    f"{path} is a damaged gzip file: {error} (after line {line - 1})", "fetch or compress it again"
                ) from error
            if not block:
                return
            yield line, block.removeprefix(_BOM) if line == 1 else block
            line += block.count(b"\n")


def first_line(path: str | Path) -> str:
    """Return the first line of a file, undecodable bytes replaced; empty for an empty file."""
    block = next(blocks(path, 1), (1, b""))[1]
    return block.decode("utf-8", "replace").rstrip("\r\n")
