"""Answers that survive a kill: one JSON line an answer, on disk before the next is asked for.

The first line is the head: the fingerprinted settings that decide every answer, and what a reader wants to know. Each
further line is a row with a key of its own; of two rows with the same key the later one counts. A last line that a
kill cut short is dropped. Rows reach the operating system at once, so that a killed process loses none, and the disk
within a second, so that a machine that fails loses no more than that.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import atomic_open, read_jsonl, writing_error

Row = dict[str, Any]
#: Seconds between two syncs to disk.
_SYNC = 1.0


class Ledger:
    """A file of answers, open for appending.

    Args:
        path: the file; it is made, with its folder, where it does not exist.
        settings: all that decides the answers, as plain data; None for a file without a head.
        key: row -> what tells it from other rows.
        about: further entries of a new file's head.
        keep: whether an earlier row stays in the file.
        done: whether a row that stays is final; another is asked again.

    Attributes:
        done: keys of the final rows.

    Raises:
        StarError: the file has other settings, is damaged or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any] | None,
        key: Callable[[Row], Hashable],
        about: Mapping[str, Any] | None = None,
        keep: Callable[[Row], bool] = lambda row: True,
        done: Callable[[Row], bool] = lambda row: True,
    ) -> None:
        self.path, self._key = Path(path), key
        self.done: set[Hashable] = set()
        lines: dict[Hashable, str] = {}
        head = None if settings is None else {**(about or {}), "settings": settings}
        rows = read_jsonl(self.path) if self.path.exists() else iter(())
        if head is not None and (before := next(rows, None)) is not None:
            changed = differences(before.get("settings") or {}, _plain(settings))
            if changed:
                raise StarError(
                    f"{self.path} holds answers with other settings ({changed})",
                    "undo the change, choose another name or folder, or delete the file",
                )
            head = before
        for row in rows:
            if keep(row) and key(row) not in self.done:
                lines[key(row)] = _line(row)
                if done(row):
                    self.done.add(key(row))
        with atomic_open(self.path) as handle:
            handle.writelines([*([] if head is None else [_line(head)]), *lines.values()])
        self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by `close`
        self._synced = time.monotonic()

    def append(self, row: Row) -> None:
        """Write a row.

        Raises:
            StarError: the disk is full or cannot be written.
        """
        try:
            self._handle.write(_line(row))
            self._handle.flush()
            if time.monotonic() - self._synced > _SYNC:
                os.fsync(self._handle.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise writing_error(self.path, error) from error
        self.done.add(self._key(row))

    def close(self) -> None:
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()


def read_head(path: str | Path) -> Row:
    """Return the first line of a ledger; empty for a missing file."""
    head: Row = next(read_jsonl(path), {}) if Path(path).exists() else {}
    return head


def read_rows(path: str | Path) -> Iterator[Row]:
    """Yield the rows of a ledger with a head, each as often as it was written."""
    rows = read_jsonl(path)
    next(rows, None)
    yield from rows


def differences(before: Any, now: Any, most: int = 4) -> str:
    """Return which entries of two nested settings differ, such as ``seed: 1 -> 2``; empty where none does."""
    one, two = _flat(before), _flat(now)
    changed = [
        f"{key}: {one.get(key, 'absent')} -> {two.get(key, 'absent')}"
        for key in sorted(one.keys() | two.keys())
        if one.get(key, "absent") != two.get(key, "absent")
    ]
    more = f" and {len(changed) - most} more" if len(changed) > most else ""
    return "; ".join(changed[:most]) + more


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    found: dict[str, Any] = {}
    for key, entry in value.items():
        found |= _flat(entry, f"{path}.{key}" if path else str(key))
    return found


def _plain(value: Any) -> Any:
    return json.loads(_line(value))


def _line(value: Any) -> str:
    return json.dumps(value, default=str) + "\n"  # a trace may hold anything
