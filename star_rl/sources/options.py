"""Options of the sources: a dataclass each, filled from a mapping and held to its types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from star_rl.errors import StarError
from star_rl.sources.sink import Progress, Sink

T = TypeVar("T")


@dataclass(frozen=True)
class Common:
    """What every source takes."""

    #: Largest share of bad rows of a table that is dropped and counted instead of failing the run.
    max_bad_share: float = 0.01
    #: Mebibytes of buffered interactions before they are spilled to disk. Affects speed only.
    memory_mb: int = 64

    def sink(self, out_dir: Path, source: str, progress: Progress | None, time: str = "seconds") -> Sink:
        if self.memory_mb < 1:
            raise StarError(f"memory_mb={self.memory_mb} is below 1", "give the mebibytes that may be buffered")
        return Sink(
            out_dir,
            source,
            time=time,
            max_bad_share=self.max_bad_share,
            memory=self.memory_mb << 20,
            progress=progress,
        )


def fill(kind: type[T], options: Mapping[str, Any], where: str) -> T:
    """Make ``kind`` (a dataclass) from ``options``.

    Raises:
        StarError: an option is unknown, or its value has another type than its default.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in fields:
            raise StarError(f"{where} has no option {name!r}", f"its options: {', '.join(sorted(fields))}")
        default = fields[name].default
        if isinstance(default, bool):
            right = isinstance(value, bool)
        elif isinstance(default, int):
            right = isinstance(value, int) and not isinstance(value, bool)
        elif isinstance(default, float):
            right = isinstance(value, (int, float)) and not isinstance(value, bool)
        elif isinstance(default, str):
            right = isinstance(value, str)
        else:
            right = True
        if not right:
            raise StarError(
                f"{where}: {name}={value!r} is not of type {type(default).__name__}", f"default: {default!r}"
            )
        values[name] = value
    return kind(**values)
