"""The form of a store: the names and details of its entries, and its shards.

A shard is one LMDB file that is written once, in the order of its keys, and then only mapped. It has two databases,
``texts`` and ``details``, under the same names. LMDB trusts its pages, so a flipped bit could give a wrong answer or
end the process: a file is read once and compared with the manifest's checksum before LMDB sees it. That takes about
0.3 s a GB from the page cache, and every look-up after it is LMDB's own. py-lmdb touches pages with Python's lock
released, so a network file system that stops answering holds up its caller alone.

An entry's details are a msgpack list: the key where the entry's name is too long to hold it, the ids of the neighbours,
their numbers, and the structured evidence, each in a zstd frame of its own. They stand apart because the policy's tools
read each alone, in the middle of a rollout. The numbers are a msgpack list too: weights (32-bit floats where those are
exact, else 64-bit) and support (32-bit integers, empty if the entry has no neighbours).
"""

from __future__ import annotations

import functools
import hashlib
import struct
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
import msgpack
import psutil
from xxhash import xxh3_64, xxh3_64_intdigest
from zstandard import ZstdCompressor, ZstdDecompressor

from star_rl.errors import StarError
from star_rl.files import sha256

FILE = "data.mdb"
TEXTS, DETAILS = b"texts", b"details"
#: Bytes of LMDB's longest key. A longer name is replaced by its hash, behind a byte that no UTF-8 text holds.
LONGEST, _HASHED = 511, b"\xff"
#: Linux's own disks and memory. A network file system may hang while a file is read.
_DISKS = ("bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "squashfs", "xfs", "zfs")
LOCAL = frozenset((*_DISKS, "ramfs", "tmpfs"))


@functools.lru_cache(maxsize=64)
def on_local_disk(folder: str | Path) -> bool:
    """Return whether the folder's file system is one of :data:`LOCAL`; False if that is unknown."""
    try:
        path = Path(folder).resolve(strict=True)
        mounts = [mount for mount in psutil.disk_partitions(all=True) if path.is_relative_to(mount.mountpoint)]
    except OSError:
        return False
    # The last of those mounted on one point hides the others.
    best = max(reversed(mounts), key=lambda mount: len(mount.mountpoint), default=None)
    return best is not None and best.fstype in LOCAL


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


# ---------------------------------------------------------------------------------------------------------- details


class _Zstd(threading.local):
    """One pair per thread: they must not be shared, and creating one takes longer than a frame."""

    def __init__(self) -> None:
        self.compress = ZstdCompressor(level=3).compress
        self.decompress = ZstdDecompressor().decompress


_zstd = _Zstd()


def pack(neighbours: Iterable[Sequence[Any]], structured: Any, key: str | None = None) -> bytes:
    """Return the bytes of an entry's details.

    Raises:
        StarError: a neighbour is not (id, weight) or (id, weight, support).
        UnicodeEncodeError: an id or the evidence is not valid Unicode.
    """
    try:
        ids, weights, *support = list(zip(*neighbours, strict=True)) or [(), ()]
        "".join(ids)  # refuses what is not a string
        wide, narrow = array("d", weights), array("f", weights)
        columns = (narrow if narrow == wide else wide).tobytes(), array("I", *support).tobytes()
        parts = [msgpack.packb(part) for part in (ids, columns, structured)]
    except UnicodeEncodeError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise StarError(
            f"neighbours cannot be stored ({error})", "give (id, weight) or (id, weight, support), all of one length"
        ) from error
    details: bytes = msgpack.packb((key, *map(_zstd.compress, parts)))
    return details


def key_in(details: bytes) -> str:
    """Return the key of an entry whose name does not hold it."""
    return str(msgpack.unpackb(details)[0])


def ids_in(details: bytes) -> list[str]:
    """Return the ids of the neighbours, strongest first."""
    ids: list[str] = _opened(msgpack.unpackb(details)[1])
    return ids


def columns_in(details: bytes) -> list[Sequence[Any]]:
    """Return the neighbours' ids, weights and, if they have any, support."""
    ids, (weights, support) = map(_opened, msgpack.unpackb(details)[1:3])
    columns = [ids, struct.unpack(f"={len(ids)}{'f' if len(weights) == 4 * len(ids) else 'd'}", weights)]
    if support:
        columns.append(struct.unpack(f"={len(ids)}I", support))
    return columns


def structured_in(details: bytes) -> Any:
    """Return the structured evidence."""
    return _opened(msgpack.unpackb(details)[3])


def _opened(frame: bytes) -> Any:
    return msgpack.unpackb(_zstd.decompress(frame))


# ------------------------------------------------------------------------------------------------------------ files


def damaged(file: Path, how: str) -> StarError:
    """Return the error for a store that is not what was sealed."""
    return StarError(f"the evidence store is damaged: {file}: {how}", "copy the store again, or build it again")


def described(file: Path) -> dict[str, Any]:
    """Return a file's length and checksums, as the manifest keeps them."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file), "xxh3": _checksum(file)}


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
        row: its entry in the manifest (:func:`described`).

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
