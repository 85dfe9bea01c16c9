"""A source of your own: raw files to the tables of star_rl.

    star-rl run recipes/quickstart.yaml source.name=examples/custom_source.py source.root=plays.log name=plays

It reads a log of plays, one a line: ``2024-05-01T12:00:00 user=ann track=t7 genre=jazz``. The function ``write`` is
called by the stage ``tables``; the sink checks ids and times, counts what it drops, sorts and writes.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from star_rl import Sink, StarError

LINE = re.compile(r"(?P<time>\S+) user=(?P<user>\S+) track=(?P<track>\S+) genre=(?P<genre>\S+)")
OPTIONS = {"max_bad_share"}
BATCH = 10_000  # rows handed over at once


def write(root: Path | None, out_dir: Path, options: Mapping[str, Any], progress: Any) -> dict[str, Any]:
    """Write the tables and return their manifest.

    Args:
        root: ``source.root`` of the recipe; here the log.
        out_dir: where the tables go.
        options: ``source.options`` of the recipe.
        progress: shows how many rows are done; the sink calls it.
    """
    if root is None:
        raise StarError("source.root is not set", "set source.root=FILE, a log of plays")
    if unknown := set(options) - OPTIONS:
        raise StarError(f"source.options.{min(unknown)} is not known", f"the options are {', '.join(OPTIONS)}")
    with Sink(out_dir, "plays", progress=progress, **options) as sink:
        genres: dict[str, str] = {}
        rows: list[tuple[str, str, int]] = []
        bad = sink.reporter("interactions", root)  # counts a bad line, and keeps the first ones for the manifest
        with open(root, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                found = LINE.fullmatch(line.strip())
                if found is None:
                    bad(number, "not a play")
                    continue
                genres.setdefault(found["track"], found["genre"])
                when = datetime.datetime.fromisoformat(found["time"]).replace(tzinfo=datetime.UTC)
                rows.append((found["user"], found["track"], int(when.timestamp())))
                if len(rows) == BATCH:
                    flush(sink, rows)
        flush(sink, rows)
        for track, genre in genres.items():
            sink.item(track, title=f"Track {track}", categories=[genre], attributes={})
        return sink.close()


def flush(sink: Sink, rows: list[tuple[str, str, int]]) -> None:
    """Hand rows over as columns: users, items, seconds since 1970."""
    users, items, stamps = zip(*rows, strict=True) if rows else ((), (), ())
    sink.interactions(pa.array(users, pa.string()), pa.array(items, pa.string()), pa.array(stamps, pa.int64()))
    rows.clear()
