"""MovieLens in the layouts it is handed around in: RecBole's atomic files, and GroupLens' 100k, 1M and later ones.

Ratings of every height are interactions; genres are the categories.
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
    """Write the tables of a MovieLens folder; the layout is told by the names of the files."""
    o = read_options(Common, options, "source.options")
    assert root is not None
    for layout, marker, read in LAYOUTS:
        found = sorted(root.glob(marker)) + sorted(root.glob(marker + ".gz"))
        if found:
            with o.sink(out_dir, "movielens", progress) as sink:
                read(root, found[0], sink)
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
        ratings = table["rating"].combine_chunks() if "rating" in columns else None
        user, item, stamp = (table[name].combine_chunks() for name in ("user_id", "item_id", "timestamp"))
        sink.interactions(user, item, stamp, ratings, None, path, lines)


def _rows(
    sink: Sink, table: str, path: Path, columns: list[str], add: Callable[[dict[str, str]], None], **form: Any
) -> None:
    for _, rows in read_delimited(path, columns, sink.reporter(table, path), **form):
        for row in rows.to_pylist():
            add(row)


def _titled(title: str) -> tuple[str, dict[str, Any]]:
    """Split ``Heat (1995)`` into its title and its year."""
    match = _YEAR.match(title)
    return (match[1], {"year": int(match[2])}) if match else (title, {})


def _genres(text: str, separator: str = "|") -> list[str]:
    return [g for g in text.split(separator) if g and g != "(no genres listed)"]


def atomic_columns(path: Path) -> list[str]:
    """Column names of a RecBole atomic file: its header is ``name:type`` separated by tabs."""
    return [name.split(":")[0] for name in first_line(path).split("\t")]


def _attributes(row: Mapping[str, str], skip: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: (int(v) if v.isdigit() and not v.startswith("0") else v)
        for name, v in row.items()
        if name not in skip and v
    }


def _sibling(path: Path, suffix: str) -> Path:
    stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    for name in (stem + suffix, stem + suffix + ".gz"):
        if (path.parent / name).exists():
            return path.parent / name
    raise StarError(f"there is no file {path.parent / (stem + suffix)}", "items need titles: fetch the item file too")


def _either(root: Path, name: str) -> Path:
    return root / name if (root / name).exists() or not (root / (name + ".gz")).exists() else root / (name + ".gz")


def _recbole(root: Path, found: Path, sink: Sink) -> None:
    items = _sibling(found, ".item")
    columns = atomic_columns(items)
    title = next((name for name in ("movie_title", "title") if name in columns), "")
    genre = next((name for name in ("class", "genre", "genres") if name in columns), "")
    if not title:
        raise StarError(f"{items} has no column movie_title or title", "items need titles")

    def item(row: dict[str, str]) -> None:
        rest = _attributes(row, ("item_id", title, genre))
        if "release_year" in rest:
            rest = {"year": rest.pop("release_year"), **rest}
        sink.item(row["item_id"], row[title], _genres(row.get(genre, ""), " "), rest)

    form: dict[str, Any] = {"delimiter": "\t", "header": 1}
    _rows(sink, "items", items, columns, item, **form)
    users = found.parent / _sibling_name(found, ".user")
    if users.exists():
        _rows(
            sink,
            "users",
            users,
            atomic_columns(users),
            lambda r: sink.user(r["user_id"], _attributes(r, ("user_id",))),
            **form,
        )
    _ratings(sink, found, atomic_columns(found), **form)


def _sibling_name(path: Path, suffix: str) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0] + suffix


def _grouplens_100k(root: Path, found: Path, sink: Sink) -> None:
    def item(row: dict[str, str]) -> None:
        title, rest = _titled(row["title"])
        sink.item(row["item_id"], title, [g for g in GENRES_100K[1:] if row[g] == "1"], rest)

    form: dict[str, Any] = {"delimiter": "|", "encoding": "latin-1"}
    _rows(
        sink,
        "items",
        _either(root, "u.item"),
        ["item_id", "title", "released", "video", "url", *GENRES_100K],
        item,
        **form,
    )
    if _either(root, "u.user").exists():
        columns = ["user_id", "age", "gender", "occupation", "zip_code"]
        _rows(
            sink,
            "users",
            _either(root, "u.user"),
            columns,
            lambda r: sink.user(r["user_id"], _attributes(r, ("user_id",))),
            **form,
        )
    _ratings(sink, found, RATING, delimiter="\t")


def _grouplens_1m(root: Path, found: Path, sink: Sink) -> None:
    def item(row: dict[str, str]) -> None:
        title, rest = _titled(row["title"])
        sink.item(row["item_id"], title, _genres(row["genres"]), rest)

    form: dict[str, Any] = {"delimiter": "::", "encoding": "latin-1"}
    _rows(sink, "items", _either(root, "movies.dat"), ["item_id", "title", "genres"], item, **form)
    if _either(root, "users.dat").exists():
        columns = ["user_id", "gender", "age", "occupation", "zip_code"]
        _rows(
            sink,
            "users",
            _either(root, "users.dat"),
            columns,
            lambda r: sink.user(r["user_id"], _attributes(r, ("user_id",))),
            **form,
        )
    _ratings(sink, found, RATING, **form)


def _grouplens_csv(root: Path, found: Path, sink: Sink) -> None:
    names = {"userId": "user_id", "movieId": "item_id"}

    def item(row: dict[str, str]) -> None:
        title, rest = _titled(row["title"])
        sink.item(row["item_id"], title, _genres(row.get("genres", "")), rest)

    def columns(path: Path) -> list[str]:
        return [names.get(name, name) for name in first_line(path).split(",")]

    form: dict[str, Any] = {"delimiter": ",", "header": 1, "quoted": True}
    movies = _either(root, "movies.csv")
    _rows(sink, "items", movies, columns(movies), item, **form)
    _ratings(sink, found, columns(found), **form)


#: (name, the file that tells it, reader)
LAYOUTS: tuple[tuple[str, str, Callable[[Path, Path, Sink], None]], ...] = (
    ("recbole", "*.inter", _recbole),
    ("grouplens-100k", "u.data", _grouplens_100k),
    ("grouplens-1m", "ratings.dat", _grouplens_1m),
    ("grouplens-csv", "ratings.csv", _grouplens_csv),
)
