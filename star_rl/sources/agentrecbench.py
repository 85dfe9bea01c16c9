"""AgentRecBench and the AgentSociety Challenge: three tables of JSON lines, and tasks in folders.

``item.json``, ``review.json`` and ``user.json`` hold Amazon, Goodreads and Yelp together (``source`` says which), each
with its own field names and types; ``output_data_all``, ``_long`` and ``_short`` are three such sets. Tasks lie in
``.../tasks/task_N.json`` with ``.../groundtruth/groundtruth_N.json`` beside; the folders above
them name domain and scenario.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.files import atomic_path
from star_rl.options import Count, options, read_options
from star_rl.progress import Progress
from star_rl.records import Scenario, tasks_to
from star_rl.sources import times
from star_rl.sources.cleaning import Prepared, clean_ratings, clean_text, labels
from star_rl.sources.jsonlines import LineBlock, Reader, pick, read_blocks, read_objects
from star_rl.sources.options import Common
from star_rl.sources.scan import Fields
from star_rl.sources.sink import Sink
from star_rl.sources.societytasks import SCENARIOS_OF, read_tasks, with_cutoffs

_IDS = ("user_id", "item_id")
_STAMPS = ("timestamp", "date", "date_added", "date_updated")
_RATINGS = ("stars", "rating")
_USER = ("name", "review_count", "yelping_since", "average_stars", "fans", "elite", "source")
#: Goodreads shelves that say where a book stands, not what it is.
_SHELVES = frozenset((
    "to-read", "currently-reading", "read", "owned", "default", "favorites", "favourites", "books-i-own", "wish-list",
    "to-buy", "library", "kindle", "ebook", "ebooks", "e-book", "audiobook", "audiobooks", "my-books", "my-library",
    "i-own", "dnf", "re-read", "maybe", "calibre", "nook", "borrowed",
))  # fmt: skip


@options
class AgentRecBenchOptions(Common):
    #: ``amazon``, ``goodreads``, ``yelp``, or ``all`` in one set of tables.
    domain: Literal["all", "amazon", "goodreads", "yelp"] = "all"
    #: Set of tables: ``all`` (classic and cold start), ``long`` or ``short``; for a root of sets only.
    tables: Literal["all", "long", "short"] = "all"
    #: Folder of the tasks, relative to root or absolute; empty: ``task`` or ``tasks`` beside the tables, if there.
    tasks: str = ""
    #: Scenario of tasks whose path names none (AgentSociety).
    scenario: Scenario = "classic"
    #: Whether review texts are kept.
    text: bool = True
    #: Longest description kept of an item, characters.
    description: Count = 500


def write(root: Path | None, out_dir: Path, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Write the tables and, where tasks are found, ``tasks.parquet``."""
    o = read_options(AgentRecBenchOptions, options, "source.options")
    assert root is not None
    folder, task_folder = _folders(root, o)
    with o.sink(out_dir, "agentrecbench", progress) as sink:
        sink.time_column = "timestamp, date or date_added"
        files = [_file(folder, name) for name in ("item", "user", "review")]
        # Items and users are Python's work, reviews the scanner's, which leaves the interpreter alone.
        with ThreadPoolExecutor(1) as pool:
            others = pool.submit(_items_and_users, sink, files[0], files[1], o)
            _reviews(sink, files[2], o)
            others.result()

        def tasks() -> dict[str, Any]:
            if task_folder is None:
                return {}
            wanted = SCENARIOS_OF[o.tables] if folder != root else None
            found, dropped = read_tasks(task_folder, o.domain, o.scenario, wanted)
            known = sink.known_items(item for task in found for item in task.candidates)
            kept = []
            for task in found:
                if all(item in known for item in task.candidates):
                    kept.append(task)
                else:
                    dropped["candidate not in the item table"] += 1
            table = tasks_to(with_cutoffs(kept, sink.out_dir / "interactions.parquet"))
            with atomic_path(sink.out_dir / "tasks.parquet") as temporary:
                pq.write_table(table, temporary, compression="zstd")
            return {"tasks": {"folder": str(task_folder), "kept": len(kept), "dropped": dict(dropped)}}

        kept_options = {name: getattr(o, name) for name in ("domain", "tables", "scenario", "text", "description")}
        return sink.close(finish=tasks, options=kept_options)


def _folders(root: Path, o: AgentRecBenchOptions) -> tuple[Path, Path | None]:
    folder = root if _find(root, "review") else root / f"output_data_{o.tables}"
    if not _find(folder, "review"):
        raise StarError(
            f"no review.json in {root} or {folder}",
            "set root to the folder of the processed tables (item.json, review.json, user.json, or .jsonl, or .gz)",
        )
    if o.tasks:
        task_folder = root / o.tasks
        if not task_folder.is_dir():
            raise StarError(f"there is no folder {task_folder}", "set tasks to the folder that holds the tasks")
        return folder, task_folder
    return folder, next((path for path in (root / "task", root / "tasks") if path.is_dir()), None)


def _find(folder: Path, name: str) -> Path | None:
    for suffix in (".json", ".jsonl", ".json.gz", ".jsonl.gz"):
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    return None


def _file(folder: Path, name: str) -> Path:
    found = _find(folder, name)
    if found is None:
        raise StarError(f"there is no {name}.json (or .jsonl, or .gz) in {folder}", "process the raw data again")
    return found


# ---------------------------------------------------------------------- reviews


def _reviews(sink: Sink, path: Path, o: AgentRecBenchOptions) -> None:
    bad = sink.reporter("interactions", path)

    def work(block: LineBlock) -> tuple[Prepared, int, np.ndarray | None]:
        """Return the domain's rows, how many rows were of another, and a mask of the domain's where not all are."""
        stamps, (ratings, odd) = _stamps(block), _ratings(block)
        columns = [block.text("user_id"), block.text("item_id"), stamps, ratings, odd]
        columns.append(block.text("text") if o.text else pa.nulls(len(block.lines), pa.string()))
        other, here = 0, None
        if o.domain != "all":
            mask = pc.equal(pc.fill_null(block.text("source"), o.domain), o.domain)
            other = len(mask) - int(mask.true_count)
            if other:
                columns, here = [column.filter(mask) for column in columns], mask.to_numpy(zero_copy_only=False)
        odd = columns.pop(4)
        return sink.prepare(columns, odd), other, here

    texts = (*_IDS, "source", "text") if o.text else (*_IDS, "source")
    reader = Reader(Fields(texts, (*_STAMPS, *_RATINGS)))
    for line, block, (rows, other, here) in read_blocks(path, reader, work):
        for number, reason in block.bad:
            bad(line + number, reason)
        sink.skip("interactions", "other domain", other)
        sink.add(rows, path, line + (block.lines if here is None else block.lines[here]))


def _stamps(block: LineBlock) -> pa.Array:
    """Return the first readable date of each row, in seconds; int64."""
    out = pa.nulls(len(block.lines), pa.int64())
    for name in _STAMPS:
        for column in (block.columns[name].number, block.columns[name].text):
            if column is not None and out.null_count:
                value = times.seconds(column)
                out = value if out.null_count == len(out) else pc.coalesce(out, value)
    return out


def _ratings(block: LineBlock) -> tuple[pa.Array, pa.Array]:
    """Return each row's first rating as float32, null if it is no number; and those, as text. Shapes: (n,)."""
    count = len(block.lines)
    out, odd, empty = pa.nulls(count, pa.float32()), pa.nulls(count, pa.string()), np.ones(count, bool)
    for name in _RATINGS:
        for column in (block.columns[name].number, block.columns[name].text):
            if column is None or not empty.any():
                continue
            there = pc.is_valid(column).to_numpy(zero_copy_only=False)
            here = pa.array(there & empty)
            value, wrong = clean_ratings(column)
            out, odd = pc.if_else(here, value, out), pc.if_else(here, wrong, odd)
            empty &= ~there
    return out, odd


# ---------------------------------------------------------------------- items and users


def _rows(sink: Sink, table: str, path: Path, o: AgentRecBenchOptions) -> Iterator[dict[str, Any]]:
    for _, row in read_objects(path, sink.reporter(table, path)):
        if o.domain == "all" or row.get("source") in (None, o.domain):
            yield row
        else:
            sink.skip(table, "other domain")


def _items_and_users(sink: Sink, items: Path, users: Path, o: AgentRecBenchOptions) -> None:
    for row in _rows(sink, "items", items, o):
        sink.item(row.get("item_id"), *describe(row, o.description))
    for row in _rows(sink, "users", users, o):
        sink.user(row.get("user_id"), pick(row, _USER))


def describe(row: Mapping[str, Any], limit: int) -> tuple[object, list[str], dict[str, Any]]:
    """Return title, categories and attributes of an item row of any of the three domains."""
    domain = row.get("source") or ("yelp" if "city" in row else "goodreads" if "popular_shelves" in row else "amazon")
    text = _description(row.get("description"), limit)
    about: dict[str, Any] = {"source": domain}
    if domain == "yelp":
        about |= pick(row, ("city", "stars", "review_count", "attributes"))
        return row.get("name") or row.get("title"), labels(row.get("categories"), ","), about
    if domain == "goodreads":
        about |= pick(row, ("publication_year", "average_rating", "ratings_count", "text_reviews_count"))
        authors = row.get("authors")
        ids = [a.get("author_id") for a in authors if isinstance(a, dict)] if isinstance(authors, list) else []
        about |= {"author_ids": ids} if ids else {}
        title = row.get("title") or row.get("title_without_series")
        return title, _shelves(row.get("popular_shelves")), about | ({"description": text} if text else {})
    about |= pick(row, ("main_category", "price", "average_rating", "rating_number", "store"))
    features = row.get("features")
    if isinstance(features, list) and features:
        about["features"] = [clean_text(feature)[:limit] for feature in features[:5]]
    categories = labels(row.get("categories"), ">") or labels(row.get("main_category"), "\n")
    return row.get("title"), categories, about | ({"description": text} if text else {})


def _description(value: object, limit: int) -> str:
    if isinstance(value, list):
        value = " ".join(str(part) for part in value)
    return clean_text(value)[:limit]


def _shelves(value: object, most: int = 5) -> list[str]:
    if not isinstance(value, list):
        return []
    names = [str(shelf.get("name") or "") if isinstance(shelf, dict) else str(shelf) for shelf in value]
    return [name for name in names if name and name not in _SHELVES][:most]
