"""Amazon Reviews in the publishers' own files, of 2014, 2018 and 2023 (McAuley lab); the fields tell the release.

| release | reviews | items |
| --- | --- | --- |
| 2014 | ``reviews_X.json.gz``, ``reviews_X_5.json.gz`` | ``meta_X.json.gz``, whose lines are Python literals |
| 2018 | ``X.json.gz``, ``X_5.json.gz`` | ``meta_X.json.gz`` |
| 2023 | ``X.jsonl.gz``, ``X.jsonl`` | ``meta_X.jsonl.gz``, ``meta_X.jsonl`` |

An item of 2023 is a ``parent_asin``, under which the variants of a product are gathered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.options import options, read_options
from star_rl.progress import Progress
from star_rl.sources.agentrecbench import describe
from star_rl.sources.published import (
    PublishedOptions,
    ReviewFields,
    file_named,
    files_named,
    named_file,
    number,
    plain,
    price,
    read_reviews,
    read_rows,
)
from star_rl.sources.sink import Sink

_OLD = ReviewFields(("reviewerID",), ("asin",), ("unixReviewTime", "reviewTime"), "overall", "reviewText")
_NEW = ReviewFields(("user_id",), ("parent_asin", "asin"), ("timestamp", "sort_timestamp"), "rating", "text")
_REMEDY = "set root to the folder of reviews and metadata (reviews_X_5.json.gz, X.json.gz or X.jsonl.gz, meta_X..)"


@options
class AmazonOptions(PublishedOptions):
    #: Category X of the files; empty: the only one of the folder.
    category: str = ""
    #: File of the reviews; empty: found by name, the whole file before the 5-core.
    reviews: str = ""
    #: File of the items; empty: found by name.
    meta: str = ""


def write(root: Path | None, out_dir: Path, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Write the tables of one category."""
    o = read_options(AmazonOptions, options, "source.options")
    assert root is not None
    reviews, meta = _files(root, o)
    name = f"amazon-{o.category}" if o.category else "amazon"  # prompts speak of CDs as music
    with o.sink(out_dir, name, progress) as sink:
        sink.time_column = "unixReviewTime or timestamp"
        _items(sink, meta, o.description)
        names, release = _fields(reviews)
        read_reviews(sink, reviews, names, o.text)
        return sink.close(
            files={"reviews": reviews.name, "meta": meta.name, "fields": release},
            options={"text": o.text, "description": o.description},
        )


def _files(root: Path, o: AmazonOptions) -> tuple[Path, Path]:
    name = "(.+)" if not o.category else re.escape(o.category)
    meta = (
        named_file(root, o.meta, "meta") if o.meta else file_named(root, f"meta_{name}", "meta_X.json(l)(.gz)", _REMEDY)
    )
    if o.reviews:
        return named_file(root, o.reviews, "reviews"), meta
    category = meta.name.split(".")[0].removeprefix("meta_")
    stems = [f"reviews_{category}", category, f"reviews_{category}_5", f"{category}_5"]
    for stem in stems:
        if found := files_named(root, re.escape(stem)):
            return found[0], meta
    raise StarError(f"no reviews of {meta.name} in {root}: none of {', '.join(stems)} as .json(l)(.gz)", _REMEDY)


def _fields(path: Path) -> tuple[ReviewFields, str]:
    """Return the names of the fields, by the first usable line."""
    for _, row in read_rows(path, lambda line, reason: None):
        if "reviewerID" in row:
            return _OLD, "2014 and 2018"
        if "user_id" in row:
            return _NEW, "2023"
        raise StarError(
            f"{path} holds no reviews: the first line has the fields {', '.join(map(str, list(row)[:8]))}",
            "reviews have reviewerID and asin (2014, 2018) or user_id and parent_asin (2023)",
        )
    raise StarError(f"{path} holds no line that can be read", "fetch the file again")


def _items(sink: Sink, path: Path, limit: int) -> None:
    for _, row in read_rows(path, sink.reporter("items", path)):
        sink.item(row.get("parent_asin") or row.get("asin"), *describe(_item(row), limit))


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item with the field names of 2023, without HTML."""
    details = row.get("details")
    if isinstance(details, str):  # the release of 2023 on Hugging Face
        try:
            details = json.loads(details)
        except ValueError:
            details = None
    brand = details.get("Brand") or details.get("Manufacturer") if isinstance(details, dict) else None
    title = plain(row.get("title"))
    labels = row.get("categories") or row.get("category") or []
    labels = [label for entry in labels for label in (entry if isinstance(entry, list) else [entry])]
    main = row.get("main_category") or row.get("main_cat")
    if alt := re.search(r'<img[^>]*\balt="([^"]*)"', str(main)):  # 2018: a picture in the place of a name
        main = alt[1]
    return {
        "source": "amazon",
        "title": "" if "getTime" in title else title,  # 2018: a page that was not parsed
        "categories": [plain(label) for label in labels],
        "main_category": plain(main),
        "store": plain(row.get("store")) or plain(row.get("brand")) or plain(brand),
        "price": price(row.get("price")),
        "average_rating": number(row.get("average_rating")),
        "rating_number": number(row.get("rating_number")),
        "features": _texts(row.get("features") or row.get("feature")),
        "description": _texts(row.get("description")),
    }


def _texts(value: object) -> list[str]:
    return [text for entry in (value if isinstance(value, list) else [value]) if (text := plain(entry))]
