"""The response cache: replies that were paid for once."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import writing_error


class Cache:
    """Replies by request in SQLite. With write-ahead logging a killed process loses no reply that it received."""

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
            raise StarError(f"{path} is not a response cache ({error})", "choose another file") from error

    def get(self, request: str) -> dict[str, Any] | None:
        """Return the reply to a request; None if it is not cached."""
        row = self._base.execute("SELECT reply FROM replies WHERE key = ?", (_key(request),)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, request: str, reply: Mapping[str, Any]) -> None:
        """Keep the reply to a request."""
        try:
            self._base.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (_key(request), json.dumps(reply)))
        except sqlite3.Error as error:
            raise StarError(f"cannot write the response cache {self.path} ({error})", "free disk space") from error

    def totals(self) -> tuple[int, int, int]:
        """Return (replies, prompt tokens, completion tokens) of all replies."""
        sums = ", ".join(f"total(json_extract(reply, '$.{name}_tokens'))" for name in ("prompt", "completion"))
        replies, prompt, completion = self._base.execute(f"SELECT count(*), {sums} FROM replies").fetchone()
        return replies, int(prompt), int(completion)

    def close(self) -> None:
        self._base.close()


def _key(request: str) -> str:
    return hashlib.sha256(request.encode()).hexdigest()
