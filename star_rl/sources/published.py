"""Read what the sources of published review data share: reviews, rows of items and users, and files by their names."""

from __future__ import annotations

import ast
import html
import itertools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from star_rl.errors import StarError
from star_rl.options import Count, options
from star_rl.sources import times
from star_rl.sources.cleaning import clean_text
from star_rl.sources.jsonlines import Bad, LineBlock, Reader, Row, read_blocks, read_objects
from star_rl.sources.lines import blocks, first_line
from star_rl.sources.options import Common
from star_rl.sources.scan import Fields
from star_rl.sources.sink import Sink

_TAG = re.compile(r"<[^<>]*>")
_PRICE = re.compile(r"\$?\s*(\d[\d,]*(?:\.\d+)?)")
_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


@options
class PublishedOptions(Common):
    #: Whether review texts are kept.
    text: bool = True
    #: Longest description kept of an item, characters.
    description: Count = 500


class ReviewFields(NamedTuple):
    """Names of a review's fields, each with its fallbacks: the first that a row has counts."""

    user: tuple[str, ...]
    item: tuple[str, ...]
    stamp: tuple[str, ...]
    rating: str
    text: str
    zero: bool = True  #: a rating of 0 is a rating, not the lack of one


def files_named(root: Path, stem: str) -> list[Path]:
    """Return a folder's files of JSON lines whose name without suffixes matches a regular expression, by name."""
    if not root.is_dir():
        raise StarError(f"{root} is not a folder", "set source.root to the folder of the files")
    return [
        path
        for path in sorted(root.iterdir())
        for suffix in _SUFFIXES
        if path.name.endswith(suffix) and re.fullmatch(stem, path.name.removesuffix(suffix)) and path.is_file()
    ]


def file_named(root: Path, stem: str, looked_for: str, remedy: str) -> Path:
    """Return the only file of this name (see :func:`files_named`).

    Raises:
        StarError: there is no such file, or several.
    """
    found = files_named(root, stem)
    if not found:
        raise StarError(f"no {looked_for} in {root}", remedy)
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:6])
        raise StarError(f"several files may be {looked_for} in {root}: {names}", "name one of them in source.options")
    return found[0]


def named_file(root: Path, name: str, option: str) -> Path:
    """Return the file that an option names, relative to ``root`` or absolute.

    Raises:
        StarError: it does not exist.
    """
    if not (root / name).is_file():
        raise StarError(f"{option}={name}: no file {root / name}", f"set source.options.{option} to a file below root")
    return root / name


# ---------------------------------------------------------------------- reviews


def read_reviews(sink: Sink, path: Path, names: ReviewFields, text: bool) -> None:
    """Read a file of reviews into the sink, as JSON lines or as lines of Python literals."""
    bad = sink.reporter("interactions", path)
    every = (*names.user, *names.item, *names.stamp, names.rating, names.text)
    fields = Fields((*names.user, *names.item, *([names.text] if text else [])), (*names.stamp, names.rating))

    def work(block: LineBlock) -> list[pa.Array]:
        count = len(block.lines)
        user, item = (_first([block.text(name) for name in group]) for group in (names.user, names.item))
        dates = [column for name in names.stamp for column in _columns(block, name)]
        stamp = pc.coalesce(pa.nulls(count, pa.int64()), *map(times.seconds, dates))
        rating = _rating(block, names)
        words = _plain_text(block.text(names.text)) if text else pa.nulls(count, pa.string())
        # The block's columns may lie in memory that the next block overwrites.
        return [pa.concat_arrays([column, column[:0]]) for column in (user, item, stamp, rating, words)]

    def blocks_of() -> Iterator[tuple[np.ndarray, list[pa.Array]]]:
        if _is_literal(first_line(path)):
            rows = read_rows(path, bad)
            while batch := list(itertools.islice(rows, 1 << 14)):
                lines = [orjson.dumps({name: row.get(name) for name in every}, default=str) for _, row in batch]
                yield np.array([line for line, _ in batch]), work(Reader(fields)(b"\n".join(lines) + b"\n"))
            return
        for line, block, columns in read_blocks(path, Reader(fields), work):
            for number, reason in block.bad:
                bad(line + number, reason)
            yield line + block.lines, columns

    for lines, (user, item, stamp, rating, words) in blocks_of():
        sink.interactions(user, item, stamp, rating, words, path, lines)


def _columns(block: LineBlock, name: str) -> list[pa.Array]:
    column = block.columns[name]
    return [part for part in (column.number, column.text) if part is not None and part.null_count < len(part)]


def _rating(block: LineBlock, names: ReviewFields) -> pa.Array:
    """Return ratings as numbers, or as text where a row has text."""
    numbers, texts = block.columns[names.rating].number, block.columns[names.rating].text
    if numbers is not None and not names.zero:
        numbers = pc.if_else(pc.equal(numbers, 0), pa.scalar(None, pa.float64()), numbers)
    if texts is None or texts.null_count == len(texts):
        return pa.nulls(len(block.lines), pa.float64()) if numbers is None else numbers
    return texts if numbers is None else pc.coalesce(texts, numbers.cast(pa.string()))


def _first(columns: list[pa.Array]) -> pa.Array:
    """Return the first text of each row that is not empty."""
    return pc.coalesce(*(pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column) for column in columns))


def _plain_text(texts: pa.Array) -> pa.Array:
    """Return texts without line breaks of HTML and with its entities as characters; an empty one is null."""
    texts = pc.replace_substring_regex(texts, r"(?i)<br\s*/?>", " ")
    coded = pc.fill_null(pc.match_substring_regex(texts, r"&#?\w+;"), False)
    if coded.true_count:
        plain = [clean_text(html.unescape(text)) for text in texts.filter(coded).to_pylist()]
        texts = pc.replace_with_mask(texts, coded, pa.array(plain, pa.string()))
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


# ---------------------------------------------------------------------- items and users


def read_rows(path: Path, bad: Bad) -> Iterator[tuple[int, Row]]:
    """Yield ``(line number, object)`` of JSON lines, or of lines of Python literals as the release of 2014 has them."""
    if not _is_literal(first_line(path)):
        yield from read_objects(path, bad)
        return
    for start, block, *_ in blocks(path, 1 << 20):
        for number, line in enumerate(block.split(b"\n"), start):
            if line.strip():
                row = _literal(line)
                if isinstance(row, dict):
                    yield number, row
                else:
                    bad(number, row)


def _is_literal(line: str) -> bool:
    """Return whether a line is a Python dict that is not JSON."""
    return re.match(r"\s*\{\s*u?'", line) is not None


def _literal(line: bytes) -> Row | str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of backslashes in texts
        try:
            row = ast.literal_eval(line.decode().strip())
        except UnicodeDecodeError:
            return "invalid UTF-8"
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return "not JSON and not a Python literal"
    return row if isinstance(row, dict) else "not an object"


def plain(value: object) -> str:
    """Return a text of one line without tags and entities of HTML."""
    return clean_text(html.unescape(_TAG.sub(" ", str(value)))) if isinstance(value, str | int | float) else ""


def number(value: object) -> int | float | None:
    """Return a number that may be written as text, such as ``"4.00"`` or ``"1,234"``; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value.replace(",", "").strip())
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return int(value) if float(value).is_integer() else value


def price(value: object) -> float | str | None:
    """Return a price as a number, a range of prices (``$5.00 - $9.99``) as its text, None if there is no price.

    Pages that were not parsed left style sheets in this field.
    """
    text = plain(value)
    found = _PRICE.findall(text)
    if not found or len(text) > 40 or "{" in text:
        return None
    return text if len(found) > 1 else float(found[0].replace(",", ""))
