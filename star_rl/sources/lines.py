"""Raw files as blocks of whole lines in UTF-8, plain or gzip, with the number of each block's first line."""

from __future__ import annotations

import codecs
import functools
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from star_rl.errors import StarError

#: Bytes of one block: enough for a vectorised reader, and little enough for the cache.
BLOCK = 4 << 20
#: Bytes of a file by which its encoding is detected.
_SAMPLE = 16 << 20
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
#: Bytes that cp1252 leaves open: text that has one is Latin-1.
_NOT_1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
#: What Western text looks like in one byte a character: an accented letter, dash or quote beside an ASCII letter.
_WESTERN = re.compile(rb"[A-Za-z][\x80-\xff]|[\x80-\xff][A-Za-z]")


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


def blocks(path: str | Path, size: int = BLOCK, encoding: str = "") -> Iterator[tuple[int, bytes]]:
    """Yield ``(number of the first line, whole lines)``: ``size`` bytes and the rest of their last line.

    Lines count from 1 and end with a newline, whatever ends them in the file. A last line without an end is yielded as
    it stands: its parser decides whether it is cut. Bytes that the encoding does not have stay as they are.

    Args:
        encoding: a codec of Python; empty: detected from the bytes.

    Raises:
        StarError: the file is missing, or a gzip stream is cut or damaged.
    """
    line = 1
    with open_raw(path) as handle:
        try:
            name, carriage = encoding_of(path)
            name = encoding or name
            plain = codecs.lookup(name).name == "utf-8" and not carriage
            errors = "replace" if name.startswith(("utf-16", "utf-32")) else "surrogateescape"
            text = None if plain else io.TextIOWrapper(io.BufferedReader(handle), name, errors)  # type: ignore[type-var]
            while True:
                if text is None:
                    block = handle.read(size) + handle.readline()
                else:
                    block = (text.read(size) + text.readline()).encode("utf-8", "surrogateescape")
                if not block:
                    return
                yield line, block.removeprefix(codecs.BOM_UTF8) if line == 1 else block
                line += block.count(b"\n")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise StarError(
                f"{path} is a damaged gzip file: {error} (after line {line - 1})", "fetch or compress it again"
            ) from error


def encoding_of(path: str | Path) -> tuple[str, bool]:
    """Detect the codec of a text file, and whether a carriage return alone ends its lines.

    A byte order mark decides; else zero bytes mean UTF-16; else a file is UTF-8 unless more of its lines are Western
    text in one byte a character (cp1252, Latin-1). charset-normalizer was tried: it takes five of nine small Western
    files for cp1250, cp775 or Big5.
    """
    status = Path(path).stat()
    return _encoding_of(str(path), status.st_mtime_ns, status.st_size)


@functools.lru_cache(64)
def _encoding_of(path: str, changed: int, size: int) -> tuple[str, bool]:
    with open_raw(path) as handle:
        head = handle.read(1 << 16)
        for mark, name in _BOMS:
            if head.startswith(mark):
                return name, name == "utf-8" and _carriage(head)
        even, odd = head[::2].count(0), head[1::2].count(0)
        if 4 * (even + odd) > len(head):
            return ("utf-16-le" if odd > even else "utf-16-be"), False
        sample = head + handle.read(_SAMPLE - len(head))
    valid = western = 0
    if not decodes(sample):
        for line in sample.splitlines():
            if not line.isascii():
                fine = decodes(line)
                valid += fine
                western += not fine and bool(_WESTERN.search(line))
    if western > valid:
        return ("latin-1" if _NOT_1252.search(sample) else "cp1252"), _carriage(head)
    return "utf-8", _carriage(head)


def decodes(data: bytes) -> bool:
    """Return whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _carriage(head: bytes) -> bool:
    return b"\r" in head and b"\n" not in head


def first_line(path: str | Path, encoding: str = "") -> str:
    """Return the first line of a file, undecodable bytes replaced; empty for an empty file."""
    block = next(blocks(path, 1, encoding), (1, b""))[1]
    return block.decode("utf-8", "replace").rstrip("\r\n")
