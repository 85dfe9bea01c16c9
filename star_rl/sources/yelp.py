"""The Yelp Open Dataset: ``yelp_academic_dataset_{business,review,user}.json``, unpacked or inside the ``.tar``."""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.options import read_options
from star_rl.progress import Progress
from star_rl.sources.agentrecbench import describe
from star_rl.sources.jsonlines import pick, read_objects
from star_rl.sources.published import PublishedOptions, ReviewFields, file_named, files_named, read_reviews

_FIELDS = ReviewFields(("user_id",), ("business_id",), ("date",), "stars", "text")
_USER = ("name", "review_count", "yelping_since", "average_stars", "fans", "elite")
_PARTS = ("business", "user", "review")
_REMEDY = "set root to the unpacked Yelp dataset, or to its .tar"


def write(root: Path | None, out_dir: Path, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Write the tables; an archive is unpacked beside them for the time of reading."""
    o = read_options(PublishedOptions, options, "source.options")
    assert root is not None
    with contextlib.ExitStack() as stack:
        folder = root
        archive = root if root.is_file() else None if files_named(root, "yelp_academic_dataset_.*") else _archive(root)
        if archive:
            out_dir.mkdir(parents=True, exist_ok=True)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".yelp.", dir=out_dir)))
            _unpack(archive, folder)
        items, users, reviews = (
            file_named(folder, f"yelp_academic_dataset_{part}", f"yelp_academic_dataset_{part}.json", _REMEDY)
            for part in _PARTS
        )
        sink = stack.enter_context(o.sink(out_dir, "yelp", progress))
        sink.time_column = "date"
        for _, row in read_objects(items, sink.reporter("items", items)):
            sink.item(row.get("business_id"), *describe({**row, "source": "yelp"}, o.description))
        for _, row in read_objects(users, sink.reporter("users", users)):
            sink.user(row.get("user_id"), pick(row, _USER))
        read_reviews(sink, reviews, _FIELDS, o.text)
        return sink.close(options={"text": o.text, "description": o.description})


def _archive(root: Path) -> Path | None:
    return next((path for path in sorted(root.iterdir()) if re.search(r"\.(tar|tgz|tar\.gz)$", path.name)), None)


def _unpack(archive: Path, folder: Path) -> None:
    """Copy the three files out of an archive, which is read once from its start to its end."""
    wanted = [f"yelp_academic_dataset_{part}.json" for part in _PARTS]
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                name = Path(member.name).name
                if name in wanted and member.isfile() and (source := members.extractfile(member)):
                    wanted.remove(name)
                    with open(folder / name, "wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise StarError(f"{archive} is not a whole tar archive: {error}", "fetch it again") from error
    if wanted:
        raise StarError(f"{archive} holds no {', '.join(wanted)}", _REMEDY)
