"""Values as the tables want them: ids fit for prompts, titles of one line, ratings that are numbers."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

#: Ids go into JSON strings, tags and file lines that a model copies: no control or format characters, quotes,
#: backslashes or angle brackets.
UNSAFE_ID = r'[\p{Cc}\p{Cf}\p{Zl}\p{Zp}"\\<>]'
ID_LENGTH = 128
_MARKS = frozenset('"\\<>')
#: Bytes of ids that need no second look: printable ASCII without the space and those marks.
_PLAIN = np.array([0x20 < byte < 0x7F and chr(byte) not in _MARKS for byte in range(256)])


def clean_id(value: object) -> str | None:
    """An id as a string fit for prompts, or None: absent, empty, too long, or with characters of :data:`UNSAFE_ID`."""
    if value is None or isinstance(value, (bool, dict, list)) or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if not 0 < len(text) <= ID_LENGTH:
        return None
    if text.isascii():
        return text if text.isprintable() and not _MARKS.intersection(text) else None
    unsafe = any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") or c in _MARKS for c in text)
    return None if unsafe else text


def plain_ids(values: pa.Array) -> bool:
    """Whether all strings are usable ids as they stand; False only says that they want a closer look."""
    if not pa.types.is_string(values.type) or values.null_count:
        return False
    if not len(values):
        return True
    _, index, data = values.buffers()
    offsets = np.frombuffer(index, np.int32)[values.offset : values.offset + len(values) + 1]
    length = np.diff(offsets)
    if length.min() < 1 or length.max() > ID_LENGTH:
        return False
    return bool(_PLAIN[np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]].all())


def clean_ids(values: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Trim ids and say which are usable.

    Returns:
        the ids, shape (n,), and a mask of the usable ones, shape (n,).
    """
    values = whole(values)
    if plain_ids(values):
        return values, np.ones(len(values), bool)
    codes = values.cast(pa.string()).dictionary_encode()
    words = pc.utf8_trim_whitespace(codes.dictionary)
    length = pc.utf8_length(words)
    good = pc.and_(
        pc.and_(pc.greater(length, 0), pc.less_equal(length, ID_LENGTH)),
        pc.invert(pc.match_substring_regex(words, UNSAFE_ID)),
    )
    table = np.append(pc.fill_null(good, False).to_numpy(zero_copy_only=False), False)
    index = pc.fill_null(codes.indices, len(words)).to_numpy(zero_copy_only=False)
    return words.take(codes.indices), table[index]


def clean_text(value: object) -> str:
    """One line of text: white space runs become one space, control characters go."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, str) and value.isascii() and value.isprintable() and "  " not in value:
        return value.strip(" ")  # most titles
    text = " ".join(str(value).encode("utf-8", "replace").decode().split())
    return text if text.isprintable() else "".join(c for c in text if c.isprintable())


def clean_ratings(values: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Ratings as float32, null where absent or no finite number.

    Returns:
        the ratings, shape (n,), and a mask of those that were there but no finite number, shape (n,).
    """
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.float32()), pa.repeat(False, len(values))
    values = whole(values)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        text = pc.utf8_trim_whitespace(values)
        there = pc.fill_null(pc.not_equal(text, ""), False)
        number = pc.fill_null(pc.match_substring_regex(text, r"^[+-]?\d+(\.\d*)?$"), False)
        rating = pc.if_else(number, text, pa.scalar(None, pa.string())).cast(pa.float32())
        return rating, pc.and_not(there, number)
    rating = values.cast(pa.float32(), safe=False)
    finite = pc.fill_null(pc.is_finite(rating), True)
    if finite.true_count < len(finite):
        rating = pc.if_else(finite, rating, pa.scalar(None, pa.float32()))
    return rating, pc.invert(finite)


def encode(attributes: Mapping[str, Any]) -> str:
    """Attributes as JSON; what JSON has no form for is written as its text."""
    if not attributes:
        return "{}"
    try:
        return orjson.dumps(attributes, default=str).decode()
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return json.dumps(attributes, default=str)


def whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of a column that may stand in chunks."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
