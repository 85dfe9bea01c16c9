"""MovieLens in its usual layouts: RecBole's atomic files, and GroupLens' 100k, 1M and later ones.

Ratings of every value are interactions; genres are the categories.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.options import read_options
from star_rl.progress import Progress
from star_rl.sources.delimited import read_delimited
from star_rl.sources.lines import first_line
from star_rl.sources.options import Common
from star_rl.sources.sink import Sink

#: The 19 flags of u.item, in the order of u.genre.
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
RATING = ["user_id", "item_id", "rating", "timestamp"]
_YEAR = re.compile(r"^(.*?)\s*\((\d{4})\)\s*$")


def write(root: Path | None, out_dir: Path, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Write the tables of a MovieLens folder; the names of the files decide the layout."""
    o = read_options(Common, options, "source.options")
    assert root is not None
    for layout, marker, read in LAYOUTS:
        found = sorted(root.glob(marker)) + sorted(root.glob(marker + ".gz"))
        if found:
            with o.sink(out_dir, "movielens", progress) as sink:
                read(found[0], sink)
                return sink.close(layout=layout, options={"max_bad_share": o.max_bad_share})
    raise StarError(f"no MovieLens files in {root}", f"it should hold one of {', '.join(m for _, m, _ in LAYOUTS)}")


def _ratings(sink: Sink, path: Path, columns: list[str], **form: Any) -> None:
    missing = [name for name in ("user_id", "item_id", "timestamp") if name not in columns]
    if missing:
        raise StarError(
            f"{path} has no column {', '.join(missing)}",
            "history needs order: use source columns with time=position where only the order of rows is known",
        )
    take = [name for name in RATING if name in columns]
    for lines, table in read_delimited(path, columns, sink.reporter("interactions", path), take=take, **form):
        ratings = table["rating"] if "rating" in columns else None
        sink.interactions(table["user_id"], table["item_id"], table["timestamp"], ratings, None, path, lines)


def _items(
    sink: Sink, path: Path, columns: list[str], labels: Callable[[dict[str, str]], list[str]], **form: Any
) -> None:
    """Add items titled ``Heat (1995)``: the year becomes an attribute."""
    for _, rows in read_delimited(path, columns, sink.reporter("items", path), **form):
        for row in rows.to_pylist():
            match = _YEAR.match(row["title"])
            title, rest = (match[1], {"year": int(match[2])}) if match else (row["title"], {})
            sink.item(row["item_id"], title, labels(row), rest)


def _users(sink: Sink, path: Path, columns: list[str], **form: Any) -> None:
    """Add the users of a file, if it exists."""
    if path.exists():
        for _, rows in read_delimited(path, columns, sink.reporter("users", path), **form):
            for row in rows.to_pylist():
                sink.user(row["user_id"], _attributes(row, ("user_id",)))


def _genres(text: str, separator: str = "|") -> list[str]:
    return [g for g in text.split(separator) if g and g != "(no genres listed)"]


def atomic_columns(path: Path) -> list[str]:
    """Return the column names of a RecBole atomic file: its header is ``name:type`` separated by tabs."""
    return [name.split(":")[0] for name in first_line(path).split("\t")]


def _attributes(row: Mapping[str, str], skip: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: (int(v) if v.isdigit() and not v.startswith("0") else v)
        for name, v in row.items()
        if name not in skip and v
    }


def _either(root: Path, name: str) -> Path:
    """Return the path of a file, or of its gzip copy if only that exists."""
    return root / name if (root / name).exists() or not (root / (name + ".gz")).exists() else root / (name + ".gz")


def _recbole(found: Path, sink: Sink) -> None:
    form: dict[str, Any] = {"delimiter": "\t", "header": True}
    stem = found.name.removesuffix(".gz").removesuffix(".inter")
    path, users = (_either(found.parent, stem + suffix) for suffix in (".item", ".user"))
    if not path.exists():
        raise StarError(f"there is no file {path}", "items need titles: fetch the item file too")
    columns = atomic_columns(path)
    title = next((name for name in ("movie_title", "title") if name in columns), "")
    genre = next((name for name in ("class", "genre", "genres") if name in columns), "")
    if not title:
        raise StarError(f"{path} has no column movie_title or title", "items need titles")
    for _, rows in read_delimited(path, columns, sink.reporter("items", path), **form):
        for row in rows.to_pylist():
            rest = _attributes(row, ("item_id", title, genre))
            if "release_year" in rest:
                rest = {"year": rest.pop("release_year"), **rest}
            sink.item(row["item_id"], row[title], _genres(row.get(genre, ""), " "), rest)
    _users(sink, users, atomic_columns(users) if users.exists() else [], **form)
    _ratings(sink, found, atomic_columns(found), **form)


def _grouplens_100k(found: Path, sink: Sink) -> None:
    form: dict[str, Any] = {"delimiter": "|"}
    columns = ["item_id", "title", "released", "video", "url", *GENRES_100K]
    _items(
        sink,
        _either(found.parent, "u.item"),
        columns,
        lambda row: [genre for genre in GENRES_100K[1:] if row[genre] == "1"],
        **form,
    )
    _users(sink, _either(found.parent, "u.user"), ["user_id", "age", "gender", "occupation", "zip_code"], **form)
    _ratings(sink, found, RATING, delimiter="\t")


def _grouplens_1m(found: Path, sink: Sink) -> None:
    form: dict[str, Any] = {"delimiter": "::"}
    movies = _either(found.parent, "movies.dat")
    _items(sink, movies, ["item_id", "title", "genres"], lambda row: _genres(row["genres"]), **form)
    _users(sink, _either(found.parent, "users.dat"), ["user_id", "gender", "age", "occupation", "zip_code"], **form)
    _ratings(sink, found, RATING, **form)


def _grouplens_csv(found: Path, sink: Sink) -> None:
    names = {"userId": "user_id", "movieId": "item_id"}

    def columns(path: Path) -> list[str]:
        return [names.get(name, name) for name in first_line(path).split(",")]

    form: dict[str, Any] = {"delimiter": ",", "header": True, "quoted": True}
    movies = _either(found.parent, "movies.csv")
    _items(sink, movies, columns(movies), lambda row: _genres(row.get("genres", "")), **form)
    _ratings(sink, found, columns(found), **form)


#: (name, the file by which it is recognised, reader)
LAYOUTS: tuple[tuple[str, str, Callable[[Path, Sink], None]], ...] = (
    ("recbole", "*.inter", _recbole),
    ("grouplens-100k", "u.data", _grouplens_100k),
    ("grouplens-1m", "ratings.dat", _grouplens_1m),
    ("grouplens-csv", "ratings.csv", _grouplens_csv),
)
