"""A shard of a sealed store: one LMDB file that is written once, in the order of its keys, and then only mapped.

It has two databases, ``texts`` and ``details`` (:mod:`star_rl.evidence.details`), under the same names. LMDB trusts its
pages, so a flipped bit could give a wrong answer or end the process: a file is read once and held to the manifest's
checksum before LMDB sees it. That takes about 0.3 s a GB from the page cache, and every look-up after it is LMDB's own.
py-lmdb touches pages with Python's lock released, so a network file system that stops answering holds up its caller
alone.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
from xxhash import xxh3_64, xxh3_64_intdigest

from star_rl.errors import StarError

FILE = "data.mdb"
TEXTS, DETAILS = b"texts", b"details"
#: Bytes of LMDB's longest key. A longer name is replaced by its hash, behind a byte that no UTF-8 text holds.
LONGEST, _HASHED = 511, b"\xff"


def name_of(tool: str, key: str) -> bytes:
    """Return the name of an entry. A tool's name never holds a zero byte, so names are unambiguous."""
    name = tool.encode() + b"\0" + key.encode()
    return name if len(name) <= LONGEST else short(name)


def short(name: bytes) -> bytes:
    """Return the name in place of one that LMDB has no room for."""
    return name[: name.index(b"\0") + 1] + _HASHED + hashlib.sha256(name).digest()


def is_hashed(name: bytes) -> bool:
    """Return whether the entry's key is in its details alone."""
    return name.partition(b"\0")[2].startswith(_HASHED)


def shard_of(name: bytes, shards: int) -> int:
    return xxh3_64_intdigest(name) % shards


def damaged(file: Path, how: str) -> StarError:
    """Return the error for a store that is not what was sealed."""
    return StarError(f"the evidence store is damaged: {file}: {how}", "copy the store again, or build it again")


def described(file: Path) -> dict[str, Any]:
    """Return a file's length and checksums, as the manifest keeps them."""
    with open(file, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest, "xxh3": _checksum(file)}


def _checksum(file: Path) -> str:
    digest = xxh3_64()
    with open(file, "rb", buffering=0) as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


class Shard:
    """A file that was checked and is mapped. Threads share it, each with a transaction of its own."""

    def __init__(self, file: Path) -> None:
        self.stamp = (0, 0)  # size and time of the file when it was last checked
        self._environment = lmdb.open(
            str(file), subdir=False, readonly=True, lock=False, readahead=False, create=False, max_dbs=2
        )
        self._texts = self._environment.open_db(TEXTS, create=False)
        self.details = self._environment.open_db(DETAILS, create=False)

    def begin(self) -> Any:
        """Return a read transaction on the texts."""
        return self._environment.begin(self._texts)

    def names(self, prefix: bytes) -> Iterator[bytes]:
        """Yield the names that begin with ``prefix``, in order."""
        with self.begin() as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                yield cursor.key()
                found = cursor.next()


_opening = threading.Lock()
#: LMDB maps a file once in a process, so the stores of one path share it: by device, inode and checksum.
_mapped: WeakValueDictionary[tuple[int, int, str], Shard] = WeakValueDictionary()


def open_shard(file: Path, row: dict[str, Any]) -> Shard:
    """Check a shard's file and map it.

    Args:
        file: the file.
        row: what the manifest says of it (:func:`described`).

    Raises:
        StarError: the file is missing, or is not what was sealed.
    """
    with _opening:
        try:
            status = file.stat()
            place, stamp = (status.st_dev, status.st_ino, row["xxh3"]), (status.st_size, status.st_mtime_ns)
            shard = _mapped.get(place)
            if shard is None or shard.stamp != stamp:
                if status.st_size != row["bytes"]:
                    raise damaged(file, f"it has {status.st_size} bytes, the manifest says {row['bytes']}")
                if _checksum(file) != row["xxh3"]:
                    raise damaged(file, "it fails its checksum")
                shard = _mapped[place] = shard or Shard(file)
                shard.stamp = stamp
        except FileNotFoundError as error:
            raise damaged(file, "it is missing") from error
        except lmdb.Error as error:
            raise damaged(file, str(error)) from error
        return shard
