"""Encode an entry's neighbours and structured evidence.

An entry's details are a msgpack list: the key where the entry's name is too long to hold it, the ids of the neighbours,
and the rest, both in zstd frames of their own. The ids stand apart because the policy's tools read them alone, in the
middle of a rollout. The rest is a msgpack list too: weights (32-bit floats where those are exact, else 64-bit), support
(32-bit integers, empty if the entry has no neighbours) and the structured evidence.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack
from zstandard import ZstdCompressor, ZstdDecompressor

from star_rl.errors import StarError

LEVEL = 3


class _Zstd(threading.local):
    """One pair per thread: they must not be shared, and creating one takes longer than a frame."""

    def __init__(self) -> None:
        self.compress = ZstdCompressor(LEVEL).compress
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
        rest = msgpack.packb((*columns, structured))
    except UnicodeEncodeError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise StarError(
            f"neighbours cannot be stored ({error})", "give (id, weight) or (id, weight, support), all of one length"
        ) from error
    details: bytes = msgpack.packb((key, _zstd.compress(msgpack.packb(ids)), _zstd.compress(rest)))
    return details


def key_in(details: bytes) -> str:
    """Return the key of an entry whose name does not hold it."""
    return str(msgpack.unpackb(details)[0])


def ids_in(details: bytes) -> list[str]:
    """Return the ids of the neighbours, strongest first."""
    ids: list[str] = msgpack.unpackb(_zstd.decompress(msgpack.unpackb(details)[1]))
    return ids


def fields_in(details: bytes) -> dict[str, Any]:
    """Return ``{neighbours: [[id, weight[, support]]], structured}``."""
    _, packed, rest = msgpack.unpackb(details)
    ids = msgpack.unpackb(_zstd.decompress(packed))
    weights, support, structured = msgpack.unpackb(_zstd.decompress(rest))
    columns = [ids, struct.unpack(f"={len(ids)}{'f' if len(weights) == 4 * len(ids) else 'd'}", weights)]
    if support:
        columns.append(struct.unpack(f"={len(ids)}I", support))
    return {"neighbours": [list(row) for row in zip(*columns, strict=True)], "structured": structured}
