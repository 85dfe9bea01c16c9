"""Timestamps of every kind that the sources hold, as whole seconds since 1970 (UTC)."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Above these a number cannot be seconds (year 5138) or milliseconds (year 5138) any more.
_MILLIS, _MICROS = 1e11, 1e14
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FORMATS = ("%m %d, %Y", "%b %d, %Y", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%d %b %Y", "%Y-%m-%d %H:%M", "%Y%m%d")
_ISO = r"^\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?$"
#: Twitter's form, which Goodreads uses: "Thu Aug 17 15:15:28 -0700 2017".
_LONG = r"^[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d [+-]\d{4} \d{4}$"


def latest() -> int:
    """The last second that is not in the future: now and a day of grace for clocks."""
    return int(time.time()) + 86_400


def seconds(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Read timestamps as seconds; null where a value is absent or cannot be read.

    Numbers are seconds, milliseconds or microseconds, told apart by their size. Strings are numbers, ISO 8601,
    Goodreads' or Amazon's written dates; a string without a zone counts as UTC.

    Returns:
        int64 array, shape: (n,).
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return pc.cast(pc.cast(pc.cast(values, pa.timestamp("us")), pa.timestamp("s"), safe=False), pa.int64())
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return _strings(values)
    if pa.types.is_null(values.type) or pa.types.is_boolean(values.type):
        return pa.nulls(len(values), pa.int64())
    return _numbers(values)


def _numbers(values: pa.Array) -> pa.Array:
    if pa.types.is_integer(values.type):
        number = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.int64)
        valid = pc.is_valid(values).to_numpy(zero_copy_only=False)
    else:
        wide = pc.fill_null(pc.cast(values, pa.float64()), np.nan).to_numpy(zero_copy_only=False)
        valid = np.isfinite(wide) & (np.abs(wide) < 2**62)
        number = np.where(valid, wide, 0).astype(np.int64)
    number = np.where(number > _MICROS, number // 1_000_000, np.where(number > _MILLIS, number // 1_000, number))
    return pa.array(number, pa.int64(), mask=~valid)


def _strings(values: pa.Array) -> pa.Array:
    text = pc.utf8_trim_whitespace(values)
    out = pa.nulls(len(text), pa.int64())
    for pattern, read in ((r"^\d+(\.\d+)?$", _digits), (_ISO, _iso), (_LONG, _long)):
        match = pc.fill_null(pc.match_substring_regex(text, pattern), False)
        hits = match.true_count
        if hits == len(text):
            return read(text)
        if hits:
            out = pc.replace_with_mask(out, match, read(text.filter(match)))
    left = pc.and_(pc.is_null(out), pc.is_valid(text))
    if pc.any(left).as_py():
        known = {value: _one(value) for value in text.filter(left).unique().to_pylist()}
        out = pc.replace_with_mask(out, left, pa.array([known[v] for v in text.filter(left).to_pylist()], pa.int64()))
    return out


def _digits(text: pa.Array) -> pa.Array:
    return _numbers(pc.cast(text, pa.float64()))


def _iso(text: pa.Array) -> pa.Array:
    padded = pc.if_else(
        pc.equal(pc.utf8_length(text), 10), pc.binary_join_element_wise(text, pa.scalar("00:00:00"), " "), text
    )
    stamp = pc.strptime(padded, format="%Y-%m-%d %H:%M:%S", unit="s", error_is_null=True)
    return pc.cast(stamp, pa.int64())


def _long(text: pa.Array) -> pa.Array:
    def part(start: int, stop: int) -> pa.Array:
        return pc.utf8_slice_codeunits(text, start, stop)

    month = pc.utf8_lpad(pc.cast(pc.add(pc.index_in(part(4, 7), pa.array(_MONTHS)), 1), pa.string()), 2, "0")
    day = pc.binary_join_element_wise(part(26, 30), month, part(8, 10), "-")
    local = _iso(pc.binary_join_element_wise(day, part(11, 19), " "))
    offset = pc.add(
        pc.multiply(pc.cast(part(21, 23), pa.int64()), 3600), pc.multiply(pc.cast(part(23, 25), pa.int64()), 60)
    )
    return pc.subtract(local, pc.if_else(pc.equal(part(20, 21), "-"), pc.negate(offset), offset))


def _one(value: str) -> int | None:
    """One string in a rarer form; None where none fits."""
    try:
        stamp = datetime.fromisoformat(value)
    except ValueError:
        for form in _FORMATS:
            try:
                stamp = datetime.strptime(value, form)
                break
            except ValueError:
                continue
        else:
            return None
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=UTC)
    return int(stamp.timestamp())
