"""Replies that were paid for once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import writing_error


class Cache:
    """Replies by key. Write-ahead logging: a killed process loses no reply that it was given."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._base.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT) WITHOUT ROWID")
        except OSError as error:
            raise writing_error(Path(path), error) from error
        except sqlite3.Error as error:
            raise StarError(f"{path} is no usable response cache ({error})", "name another file") from error

    def get(self, key: str) -> dict[str, Any] | None:
        row = self._base.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, reply: Mapping[str, Any]) -> None:
        try:
            self._base.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, json.dumps(reply)))
        except sqlite3.Error as error:
            raise StarError(
                f"the response cache {self.path} cannot be written ({error})", "free some space, then go on"
            ) from error

    def close(self) -> None:
        self._base.close()
