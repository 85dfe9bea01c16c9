"""The Goodreads book graph (UCSD) in the publishers' own files.

``goodreads_reviews*.json.gz`` or ``goodreads_interactions*.json.gz`` (every shelving), ``goodreads_books*.json.gz``,
and where they are there ``goodreads_book_authors.json.gz`` (names of authors) and
``goodreads_book_genres_initial.json.gz`` (categories in the place of shelves).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from star_rl.errors import StarError
from star_rl.options import options, read_options
from star_rl.progress import Progress
from star_rl.sources.agentrecbench import describe
from star_rl.sources.jsonlines import read_objects
from star_rl.sources.published import (
    PublishedOptions,
    ReviewFields,
    file_named,
    files_named,
    named_file,
    number,
    plain,
    read_reviews,
)
from star_rl.sources.sink import Sink

#: Most genres of a book.
_GENRES = 5
_EVENTS = {"reviews": "review_text", "interactions": "review_text_incomplete"}
_REMEDY = "set root to the folder of goodreads_books*.json.gz and goodreads_reviews*.json.gz or goodreads_interactions*"


@options
class GoodreadsOptions(PublishedOptions):
    #: ``reviews`` (whole texts), ``interactions`` (every shelving, with the beginning of each text), or ``auto``:
    #: reviews if there are any.
    events: Literal["auto", "reviews", "interactions"] = "auto"
    #: File of the events, where the folder has several; its name has to be the publisher's.
    file: str = ""
    #: File of the books, where the folder has several.
    books: str = ""


def write(root: Path | None, out_dir: Path, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Write the tables; a rating of 0, which stands for none, becomes null."""
    o = read_options(GoodreadsOptions, options, "source.options")
    assert root is not None
    kind, path = _events(root, o)
    stem = r"goodreads_books(_(?!authors|genres|works|series).+)?"
    books = (
        named_file(root, o.books, "books") if o.books else file_named(root, stem, "goodreads_books*.json.gz", _REMEDY)
    )
    with o.sink(out_dir, "goodreads", progress) as sink:
        sink.time_column = "date_added"
        others = {
            name: next(iter(files_named(root, f"goodreads_book_{name}.*")), None) for name in ("authors", "genres")
        }
        _items(sink, books, others, o.description)
        fields = ReviewFields(
            ("user_id",), ("book_id",), ("date_added", "date_updated"), "rating", _EVENTS[kind], False
        )
        read_reviews(sink, path, fields, o.text)
        names = {"events": path, "books": books, **others}
        return sink.close(
            files={name: found.name for name, found in names.items() if found},
            options={"text": o.text, "description": o.description},
        )


def _events(root: Path, o: GoodreadsOptions) -> tuple[str, Path]:
    if o.file:
        path = named_file(root, o.file, "file")
        kind = next((kind for kind in _EVENTS if f"_{kind}" in path.name), None)
        if kind is None:
            raise StarError(f"file={o.file} is neither goodreads_reviews* nor goodreads_interactions*", _REMEDY)
        return kind, path
    kinds = list(_EVENTS) if o.events == "auto" else [o.events]
    stem = r"goodreads_{}(_(?!spoiler).+)?"  # spoilers: sentences without a rating of their own
    for kind in kinds:
        if files_named(root, stem.format(kind)):
            return kind, file_named(root, stem.format(kind), f"goodreads_{kind}*.json.gz", _REMEDY)
    raise StarError(f"no {' or '.join(f'goodreads_{kind}*.json.gz' for kind in kinds)} in {root}", _REMEDY)


def _items(sink: Sink, path: Path, others: Mapping[str, Path | None], limit: int) -> None:
    names, genres = _authors(sink, others["authors"]), _genres(sink, others["genres"])
    for _, row in read_objects(path, sink.reporter("items", path)):
        title, shelves, about = describe(
            {**row, "source": "goodreads", "description": plain(row.get("description"))}, limit
        )
        for name in ("average_rating", "ratings_count", "text_reviews_count", "publication_year"):
            if (value := number(row.get(name))) is not None:
                about[name] = value
        authors = [names[one] for one in about.get("author_ids", ()) if one in names]
        if authors:
            del about["author_ids"]
            about["authors"] = authors
        sink.item(row.get("book_id"), plain(title), genres.get(str(row.get("book_id"))) or shelves, about)


def _authors(sink: Sink, path: Path | None) -> dict[str, str]:
    """Return names of authors by id."""
    if path is None:
        return {}
    rows = read_objects(path, sink.reporter("items", path))
    return {str(row.get("author_id")): plain(row.get("name")) for _, row in rows if row.get("name")}


def _genres(sink: Sink, path: Path | None) -> dict[str, list[str]]:
    """Return genres of books by id, the most frequent first; ``"history, biography"`` is one genre of two names."""
    if path is None:
        return {}
    found: dict[str, list[str]] = {}
    same: dict[tuple[str, ...], list[str]] = {}  # millions of books share a few thousand lists
    for _, row in read_objects(path, sink.reporter("items", path)):
        counts = row.get("genres")
        if isinstance(counts, dict) and counts:
            ordered = sorted(counts, key=lambda name: -(number(counts[name]) or 0))
            names = dict.fromkeys(part.strip() for name in ordered for part in name.split(","))
            key = tuple(names)[:_GENRES]
            found[str(row.get("book_id"))] = same.setdefault(key, list(key))
    return found
