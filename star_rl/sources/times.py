"""Timestamps in every form that the sources hold, as whole seconds since 1970 (UTC)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError

#: What a remedy says of the forms that are read.
FORMS = (
    "dates are read as seconds, milliseconds, microseconds or nanoseconds since 1970, days of a spreadsheet, 2017, "
    "20170817, 2017-08-17, 2017-08-17T22:15:28Z, 17.08.2017, 17/08/2017 or Aug 17, 2017"
)
#: From these on a number counts milli-, micro- or nanoseconds: as the unit before, it would lie beyond the year 5000.
_UNITS = ((1e11, 10**3), (1e14, 10**6), (1e17, 10**9))
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FORMATS = (
    "%m %d, %Y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%d. %B %Y", "%d-%b-%Y", "%d-%b-%y", "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y.%m.%d", "%Y-%m-%d %H:%M", "%a %b %d %H:%M:%S %Y", "%b %Y", "%B %Y",
    "%Y-%m", "%Y/%m",
)  # fmt: skip
_CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%I:%M:%S %p", "%I:%M %p")
_ISO = r"^\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?$"
#: Twitter's form, which Goodreads uses: "Thu Aug 17 15:15:28 -0700 2017".
_LONG = r"^[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d [+-]\d{4} \d{4}$"
_DIGITS = r"^\d+(\.\d*)?([eE]\+?\d+)?$"
#: Two numbers and a year: which of the two is the day is decided by the whole column.
_PARTS = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d\d)(?:[T, ]+(.+))?")


class DayOrder:
    """Whether 03/04/2017 is the third of April in a column: None until a value decides it, or it has a dot."""

    def __init__(self) -> None:
        self.day_first: bool | None = None

    def learn(self, values: list[str]) -> None:
        """Take the first value with a number above 12 as decisive."""
        for match in filter(None, map(_PARTS.fullmatch, values if self.day_first is None else [])):
            if (int(match[1]) > 12) != (int(match[3]) > 12):
                self.day_first = int(match[1]) > 12
                return


def latest() -> int:
    """Return the last second that is not in the future: now and a day of grace for clocks."""
    return int(time.time()) + 86_400


def seconds(values: pa.Array | pa.ChunkedArray, order: DayOrder | None = None) -> pa.Array:
    """Read timestamps as seconds; null where a value is missing or cannot be read.

    Numbers are years, YYYYMMDD (also with hour, minute, second), days of a spreadsheet, or seconds to nanoseconds; the
    size decides. Strings are such numbers, ISO 8601 or written dates; one without a zone counts as UTC.

    Args:
        order: what earlier values of the column say about 03/04/2017; such a value is unreadable until one decides.

    Returns:
        int64 array, shape: (n,).

    Raises:
        StarError: the values have a type that holds no dates.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return pc.cast(
            pc.cast(pc.cast(values, pa.timestamp("us"), safe=False), pa.timestamp("s"), safe=False), pa.int64()
        )
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _strings(values, order or DayOrder())
    if pa.types.is_null(kind) or pa.types.is_boolean(kind):
        return pa.nulls(len(values), pa.int64())
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise StarError(f"a timestamp cannot be read from a column of type {kind}", FORMS)
    return _numbers(values)


def _numbers(values: pa.Array) -> pa.Array:
    if pa.types.is_integer(values.type):
        wide = number = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.int64)
        valid = pc.is_valid(values).to_numpy(zero_copy_only=False)
    else:
        wide = pc.fill_null(pc.cast(values, pa.float64()), np.nan).to_numpy(zero_copy_only=False)
        valid = np.isfinite(wide) & (np.abs(wide) < 2**62)
        number = np.where(valid, wide, 0).astype(np.int64)
    if not len(number):
        return pa.array([], pa.int64())
    out = number.copy()
    for least, divisor in _UNITS:
        if number.max() > least:
            out = np.where(number > least, number // divisor, out)
    if number.min() < 10**8 or number.max() > 10**11:
        for low, high, divisor in ((19_000_101, 21_001_231, 1), (10**11, 10**12, 10**4), (10**13, 10**14, 10**6)):
            day = number // divisor
            written = (number >= low) & (number <= high) & (day >= 19_000_101) & (day <= 21_001_231)
            if written.any():
                clock = number[written] % divisor * (10**6 // divisor if divisor > 1 else 0)
                out[written], good = _calendar(day[written], clock)
                valid[written] &= good
        year = (number >= 1970) & (number <= 2100) & (wide == number)
        out[year] = (number[year] - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64)
        sheet = (number >= 32_874) & (number < 73_415)  # 1990 to 2100, counted from 1899-12-30
        out[sheet] = np.rint((wide[sheet] - 25_569) * 86_400).astype(np.int64)
    return pa.array(out, pa.int64(), mask=~valid)


def _calendar(day: np.ndarray, clock: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds of YYYYMMDD and HHMMSS, and a mask of the values that are dates. Shapes: (n,) each."""
    month = (day // 10_000 - 1970) * 12 + day // 100 % 100 - 1
    first, after = ((month + k).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) for k in (0, 1))
    hours, minutes, rest = clock // 10_000, clock // 100 % 100, clock % 100
    date = first + day % 100 - 1
    good = (day // 100 % 100 >= 1) & (day // 100 % 100 <= 12) & (date >= first) & (date < after)
    return date * 86_400 + hours * 3600 + minutes * 60 + rest, good & (hours < 24) & (minutes < 60) & (rest < 60)


def _strings(values: pa.Array, order: DayOrder) -> pa.Array:
    text = pc.utf8_trim_whitespace(values)
    out = pa.nulls(len(text), pa.int64())
    for pattern, read in _FAST:
        match = pc.fill_null(pc.match_substring_regex(text, pattern), False)
        hits = match.true_count
        if hits == len(text):
            return read(text)
        if hits:
            out = pc.replace_with_mask(out, match, read(text.filter(match)))
    left = pc.and_(pc.is_null(out), pc.is_valid(text))
    if pc.any(left).as_py():
        found = text.filter(left).unique().to_pylist()
        order.learn(found)
        known = {value: _one(value, order) for value in found}
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


_FAST: tuple[tuple[str, Callable[[pa.Array], pa.Array]], ...] = ((_DIGITS, _digits), (_ISO, _iso), (_LONG, _long))


def _one(value: str, order: DayOrder) -> int | None:
    """Return the seconds of one string in a rarer form; None where none fits."""
    value = re.sub(r"\s*(UTC|GMT|Z)$", "", value)
    stamp = _parts(value, order) if _PARTS.fullmatch(value) else _written(value)
    if stamp is None:
        return None
    return int((stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp())


def _written(value: str) -> datetime | None:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        pass
    found = _first_form(value, _FORMATS)
    if found is None and "," in value[:5]:  # Thu, 17 Aug 2017 15:15:28 -0700
        try:
            found = parsedate_to_datetime(value)
        except (ValueError, IndexError):
            return None
    return found


def _first_form(value: str, forms: tuple[str, ...]) -> datetime | None:
    for form in forms:
        try:
            return datetime.strptime(value, form)
        except ValueError:
            continue
    return None


def _parts(value: str, order: DayOrder) -> datetime | None:
    """Return the moment of 17/08/2017 22:15, 17.08.17 or 8/17/2017 10:15 PM."""
    match = _PARTS.fullmatch(value)
    day_first = order.day_first if order.day_first is not None else True if match and match[2] == "." else None
    if match is None or day_first is None:
        return None
    first, second, year = int(match[1]), int(match[3]), int(match[4])
    day, month = (first, second) if day_first else (second, first)
    clock = _first_form(match[5].strip(), _CLOCKS) if match[5] else datetime(1900, 1, 1)
    try:
        return clock and clock.replace(year if year > 99 else year + (1900 if year >= 70 else 2000), month, day)
    except ValueError:
        return None
