"""Values as the tables want them: ids fit for prompts, titles of one line, ratings that are numbers; usable rows."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.records import INTERACTIONS

#: Words that programs write where a value is missing.
MISSING = frozenset(
    ["nan", "NaN", "NAN", "None", "NULL", "null", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaT", "\\N", "inf", "-inf"]
)
_NUMBER = r"^[+-]?(\d+(\.\d*)?|\d*\.\d+|\d*,(\d{1,2}|\d{4,}))([eE][+-]?\d+)?$"
#: A quote that ends a word before the next: numpy writes ['Golf' 'Tennis'], which Python would join to one word.
_QUOTES = re.compile(r"""(['"])\s+(?=['"])""")
#: Keys of an object that names a category.
_NAMES = ("name", "title", "label", "category", "genre", "value", "id")
#: Columns of interactions before they are written; none is marked as never null.
ROWS = pa.schema([pa.field(field.name, field.type) for field in INTERACTIONS])
#: Ids go into JSON strings, tags and file lines that a model copies: no control or format characters, quotes,
#: backslashes or angle brackets.
UNSAFE_ID = r'[\p{Cc}\p{Cf}\p{Zl}\p{Zp}"\\<>]'
ID_LENGTH = 128
_MARKS = frozenset('"\\<>')
#: Ids that need no second look, and their bytes: printable ASCII without the space and those marks.
_SAFE = re.compile(r"[!#-;=?-\[\]-~]{1,128}")
_PLAIN = np.array([0x20 < byte < 0x7F and chr(byte) not in _MARKS for byte in range(256)])


def clean_id(value: object) -> str | None:
    """Return an id as a string fit for prompts; None if missing, empty, too long or with an unsafe character."""
    if isinstance(value, str) and _SAFE.fullmatch(value):
        return value  # most ids
    if value is None or isinstance(value, (bool, dict, list)) or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if not 0 < len(text) <= ID_LENGTH:
        return None
    unsafe = any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") or c in _MARKS for c in text)
    return None if unsafe else text


def _plain_ids(values: pa.Array) -> bool:
    """Return whether all strings are usable ids as they stand; False means that they need a closer look."""
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
    """Return the ids trimmed, and a mask of the usable ones. Shapes: (n,) both."""
    values = whole(values)
    if _plain_ids(values):
        return values, np.ones(len(values), bool)
    codes = values.cast(pa.string()).dictionary_encode()
    words = pc.utf8_trim_whitespace(codes.dictionary)
    length = pc.utf8_length(words)
    fits = pc.and_(pc.greater(length, 0), pc.less_equal(length, ID_LENGTH))
    good = pc.and_not(fits, pc.match_substring_regex(words, UNSAFE_ID))
    table = np.append(pc.fill_null(good, False).to_numpy(zero_copy_only=False), False)
    index = pc.fill_null(codes.indices, len(words)).to_numpy(zero_copy_only=False)
    return words.take(codes.indices), table[index]


def clean_text(value: object) -> str:
    """Return one line of text: runs of white space become one space, control characters go."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and value.isascii() and value.isprintable() and "  " not in value:
        return value.strip(" ")  # most titles
    text = " ".join(str(value).encode("utf-8", "replace").decode().split())
    return text if text.isprintable() else "".join(c for c in text if c.isprintable())


def present(value: object) -> object:
    """Return a value, or None for the words by which programs write a missing one."""
    return None if isinstance(value, str) and value.strip() in MISSING else value


def without_missing(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return strings with null for the words by which programs write a missing one; other types as they are."""
    values = whole(values)
    if not pa.types.is_string(values.type):
        return values
    return pc.if_else(pc.is_in(values, value_set=pa.array(sorted(MISSING))), pa.scalar(None, pa.string()), values)


def labels(value: object, separator: str = "|") -> list[str]:
    """Return categories as a flat list of labels.

    Args:
        value: a label, a number (the id of a category), a list (of lists), an object with a name or one whose keys are
            the labels; or text: such a list as JSON or as Python writes it, or labels between separators.
    """
    if present(value) is None or (isinstance(value, float) and value != value):
        return []
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return _written_labels(value.strip(), separator)
    if isinstance(value, Mapping):
        name = next((value[key] for key in _NAMES if value.get(key)), None)
        return labels(name, separator) if name is not None else [str(key) for key, weight in value.items() if weight]
    if isinstance(value, Iterable):  # a text within a list is one label, whatever it holds
        parts = ([part] if isinstance(part, str) else labels(part, separator) for part in value)
        return [label for part in parts for label in part if present(label)]
    return [str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)]


def _written_labels(text: str, separator: str) -> list[str]:
    if text[:1] + text[-1:] not in ("[]", "{}", "()"):
        return text.split(separator) if separator else [text]
    for form, read in ((text, json.loads), (_QUOTES.sub(r"\1, ", text), ast.literal_eval)):
        with contextlib.suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            found = read(form)
            if isinstance(found, str):
                break
            return labels(sorted(found) if isinstance(found, set) else found, separator)
    if text[0] != "[":
        return text.split(separator) if separator else [text]
    return [part.strip().strip("'\"") for part in re.split(r"[,|;]", text[1:-1])]


def clean_ratings(values: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Return the ratings as float32, null where missing or not finite; and the values that are no number, as text.

    Numbers are 4, 4.0, .5, 4,0 and 4.0e+00. A comma before three digits may separate thousands: no number.
    Shapes: (n,) both.
    """
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.float32()), pa.nulls(len(values), pa.string())
    values = whole(values)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        text = pc.utf8_trim_whitespace(values).cast(pa.string())
        number = pc.fill_null(pc.match_substring_regex(text, _NUMBER), False)
        point = pc.replace_substring(pc.if_else(number, text, pa.scalar(None, pa.string())), ",", ".")
        there = pc.fill_null(pc.not_equal(text, ""), False)
        return point.cast(pa.float32()), pc.if_else(pc.and_not(there, number), text, pa.scalar(None, pa.string()))
    rating = values.cast(pa.float32(), safe=False)
    finite = pc.fill_null(pc.is_finite(rating), True)
    if finite.true_count == len(finite):
        return rating, pa.nulls(len(rating), pa.string())
    nothing = pa.scalar(None, pa.float32())
    return pc.if_else(finite, rating, nothing), pc.if_else(finite, nothing, rating).cast(pa.string())


def encode(attributes: Mapping[str, Any]) -> str:
    """Return attributes as JSON; what JSON has no form for is written as text."""
    if not attributes:
        return "{}"
    try:
        return orjson.dumps(attributes, default=str).decode()
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return json.dumps(attributes, default=str)


def whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return one array of a column that may stand in chunks."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


@dataclass(frozen=True)
class Prepared:
    """Interactions that passed the checks, and what the checks found.

    Attributes:
        batch: the usable rows. read: rows before the checks.
        bad: reason, rows, and the first such row. odd: ratings that are no number, as text, shape (k,).
    """

    batch: pa.RecordBatch
    read: int
    bad: tuple[tuple[str, int, int], ...]
    odd: pa.Array


def usable(rows: list[pa.Array], odd: pa.Array, latest: int | None) -> Prepared:
    """Drop the interactions that cannot be used, and say why.

    Args:
        rows: the columns of :data:`ROWS`, shape (n,) each; a timestamp is null where a row has none.
        odd: ratings that are no number, as text, null elsewhere; shape (n,).
        latest: last timestamp that is not in the future, seconds; None where they are positions, which are not checked.
    """
    users, items, stamps, ratings, texts = rows
    users, user_ok = clean_ids(users)
    items, item_ok = clean_ids(items)
    checks = [("no usable user id", user_ok), ("no usable item id", item_ok)]
    if latest is not None:
        value = pc.fill_null(stamps, -1).to_numpy(zero_copy_only=False)
        checks += [
            ("no readable timestamp", pc.is_valid(stamps).to_numpy(zero_copy_only=False)),
            ("timestamp before 1970", value > 0),
            ("timestamp in the future", value <= latest),
        ]
    batch = pa.RecordBatch.from_arrays([users, items, stamps, ratings, texts], schema=ROWS)
    bad = []
    keep = np.ones(len(users), bool)
    for reason, good in checks:
        wrong = np.flatnonzero(keep & ~good)
        if len(wrong):
            bad.append((reason, len(wrong), int(wrong[0])))
            keep &= good
    return Prepared(batch.filter(pa.array(keep)) if bad else batch, len(users), tuple(bad), odd.drop_null())
