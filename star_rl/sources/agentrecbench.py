"""AgentRecBench and the AgentSociety Challenge: three tables of JSON lines, and tasks in folders.

``item.json``, ``review.json`` and ``user.json`` hold Amazon, Goodreads and Yelp together (``source`` says which), each
with its own field names and types; ``output_data_all``, ``_long`` and ``_short`` are three such sets. Tasks lie in
``.../tasks/task_N.json`` with ``.../groundtruth/groundtruth_N.json`` beside; the folders above
them name domain and scenario.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from star_rl.errors import StarError
from star_rl.files import atomic_path
from star_rl.records import tasks_to
from star_rl.sources import times
from star_rl.sources.cleaning import clean_text
from star_rl.sources.jsonlines import coalesce, pick, read_fields, read_objects
from star_rl.sources.lookahead import ahead
from star_rl.sources.options import Common, fill
from star_rl.sources.sink import Progress, Sink
from star_rl.sources.societytasks import DOMAINS, SCENARIOS_OF, read_tasks, with_cutoffs

_SETS = {"all": "output_data_all", "long": "output_data_long", "short": "output_data_short"}
_IDS = ("user_id", "item_id")
_STAMPS = ("timestamp", "date", "date_added", "date_updated")
_RATINGS = ("stars", "rating")
#: Goodreads shelves that say where a book stands, not what it is.
_SHELVES = frozenset(
    [
        "to-read",
        "currently-reading",
        "read",
        "owned",
        "default",
        "favorites",
        "favourites",
        "books-i-own",
        "wish-list",
        "to-buy",
        "library",
        "kindle",
        "ebook",
        "ebooks",
        "e-book",
        "audiobook",
        "audiobooks",
        "my-books",
        "my-library",
        "i-own",
        "dnf",
        "re-read",
        "maybe",
        "calibre",
        "nook",
        "borrowed",
    ]
)


@dataclass(frozen=True)
class Options(Common):
    #: ``amazon``, ``goodreads``, ``yelp``, or ``all`` in one set of tables.
    domain: str = "all"
    #: Set of tables: ``all`` (classic and cold start), ``long`` or ``short``; for a root of sets only.
    tables: str = "all"
    #: Folder of the tasks, relative to root or absolute; empty: ``task`` or ``tasks`` beside the tables, if there.
    tasks: str = ""
    #: Scenario of tasks whose path names none (AgentSociety).
    scenario: str = "classic"
    #: Whether review texts are kept.
    text: bool = True
    #: Longest description kept of an item, characters.
    description: int = 500


def write(root: Path | None, out_dir: Path, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Write the tables and, where tasks are found, ``tasks.parquet``."""
    o = fill(Options, options, "source agentrecbench")
    assert root is not None
    if o.domain not in ("all", *DOMAINS):
        raise StarError(f"domain={o.domain!r} is no choice", f"choose one of all, {', '.join(DOMAINS)}")
    if o.tables not in _SETS:
        raise StarError(f"tables={o.tables!r} is no choice", f"choose one of {', '.join(_SETS)}")
    folder, task_folder = _folders(root, o)
    with o.sink(out_dir, "agentrecbench", progress) as sink:
        sink.time_column = "timestamp, date or date_added"
        _items(sink, _file(folder, "item"), o)
        _users(sink, _file(folder, "user"), o)
        _reviews(sink, _file(folder, "review"), o)

        def tasks() -> dict[str, Any]:
            if task_folder is None:
                return {}
            wanted = SCENARIOS_OF[o.tables] if folder != root else None
            found, dropped = read_tasks(task_folder, o.domain, o.scenario, wanted)
            known = sink.item_ids()
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


def _folders(root: Path, o: Options) -> tuple[Path, Path | None]:
    folder = root if _find(root, "review") else root / _SETS[o.tables]
    if not _find(folder, "review"):
        raise StarError(
            f"no review.json in {root} or {root / _SETS[o.tables]}",
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


def _reviews(sink: Sink, path: Path, o: Options) -> None:
    def bad(line: int, reason: str) -> None:
        sink.rows["interactions"] += 1
        sink.bad("interactions", path, line, reason)

    fields = (*_IDS, *_STAMPS, *_RATINGS, "source", *(("text",) if o.text else ()))
    for lines, table in ahead(read_fields(path, fields, bad)):
        if o.domain != "all":
            here = pc.equal(pc.fill_null(table["source"], o.domain), o.domain)
            other = len(table) - int(pc.sum(here).as_py() or 0)
            if other:
                sink.rows["interactions"] += other
                sink.drop("interactions", "other domain", other)
                lines = lines[here.to_numpy()] if not isinstance(lines, int) else lines + here.to_numpy().nonzero()[0]
                table = table.filter(here)
        sink.interactions(
            table["user_id"],
            table["item_id"],
            coalesce(table, _STAMPS, times.seconds),
            coalesce(table, _RATINGS, lambda column: column),
            table["text"] if o.text else None,
            path,
            lines,
        )


# ---------------------------------------------------------------------- items and users


def _rows(sink: Sink, table: str, path: Path, o: Options) -> Iterator[dict[str, Any]]:
    def bad(line: int, reason: str) -> None:
        sink.rows[table] += 1
        sink.bad(table, path, line, reason)

    for _, row in read_objects(path, bad):
        if o.domain == "all" or row.get("source", o.domain) == o.domain:
            yield row
        else:
            sink.rows[table] += 1
            sink.drop(table, "other domain", 1)


def _items(sink: Sink, path: Path, o: Options) -> None:
    for row in _rows(sink, "items", path, o):
        title, categories, attributes = describe(row, o.description)
        sink.item(row.get("item_id"), title, categories, attributes)


def _users(sink: Sink, path: Path, o: Options) -> None:
    kept = ("name", "review_count", "yelping_since", "average_stars", "fans", "elite", "source")
    for row in _rows(sink, "users", path, o):
        sink.user(row.get("user_id"), pick(row, kept))


def describe(row: Mapping[str, Any], limit: int) -> tuple[object, list[str], dict[str, Any]]:
    """Title, categories and attributes of an item row of any of the three domains."""
    domain = row.get("source") or ("yelp" if "city" in row else "goodreads" if "popular_shelves" in row else "amazon")
    text = _description(row.get("description"), limit)
    about: dict[str, Any] = {"source": domain}
    if domain == "yelp":
        about |= pick(row, ("city", "stars", "review_count", "attributes"))
        return row.get("name") or row.get("title"), _labels(row.get("categories"), ","), about
    if domain == "goodreads":
        about |= pick(row, ("publication_year", "average_rating", "ratings_count"))
        authors = row.get("authors")
        ids = [a.get("author_id") for a in authors if isinstance(a, dict)] if isinstance(authors, list) else []
        about |= {"author_ids": ids} if ids else {}
        title = row.get("title") or row.get("title_without_series")
        return title, _shelves(row.get("popular_shelves")), about | ({"description": text} if text else {})
    about |= pick(row, ("main_category", "price", "average_rating", "rating_number", "store"))
    features = row.get("features")
    if isinstance(features, list) and features:
        about["features"] = [clean_text(feature)[:limit] for feature in features[:5]]
    categories = _labels(row.get("categories"), ">") or _labels(row.get("main_category"), "\n")
    return row.get("title"), categories, about | ({"description": text} if text else {})


def _description(value: object, limit: int) -> str:
    if isinstance(value, list):
        value = " ".join(str(part) for part in value)
    return clean_text(value)[:limit]


def _labels(value: object, separator: str) -> list[str]:
    """Categories as a list: a list (perhaps of lists) as it is, a string cut at its separator."""
    if isinstance(value, str):
        return value.split(separator)
    if isinstance(value, list):
        flat = [part for entry in value for part in (entry if isinstance(entry, list) else [entry])]
        return [str(part) for part in flat if part is not None]
    return []


def _shelves(value: object, most: int = 5) -> list[str]:
    if not isinstance(value, list):
        return []
    names = [str(shelf.get("name") or "") if isinstance(shelf, dict) else str(shelf) for shelf in value]
    return [name for name in names if name and name not in _SHELVES][:most]
