"""The ledger of paid replies: what a model answered is on disk before it is used, so no reply is paid for twice.

One JSON line a reply, filed under a hash of all that decided it (model, sampling options, messages). A line cut short
by a kill is dropped. What is lost when the process dies are the replies still on their way, at most one a slot.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_rl import locks
from star_rl.files import writing_error


@dataclass(frozen=True, slots=True)
class Paid:
    """One reply and its price in tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Ledger:
    """An append-only file of replies, held open by one process.

    Args:
        path: the file; created where it does not exist.

    Raises:
        StarError: it cannot be written, or another process holds it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places: dict[str, tuple[int, int]] = {}
        self.replies = self.prompt_tokens = self.completion_tokens = 0
        self._waiting: list[bytes] = []
        self._flushing = asyncio.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = locks.hold(
                self.path, f"another process writes the ledger {self.path}", "wait for it, or stop it"
            )
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise writing_error(self.path, error) from error
        self._end = self._written = self._read()

    def _read(self) -> int:
        """File what an earlier run paid for; cut off what a kill left half-written."""
        end = 0
        with open(self.path, "rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    key, paid = row["key"], _paid(row)
                except (ValueError, KeyError, TypeError):
                    break
                self._file(key, paid, end, len(line))
                end += len(line)
        os.ftruncate(self._descriptor, end)
        return end

    def _file(self, key: str, paid: Paid, start: int, length: int) -> None:
        self._places[key] = (start, length)
        self.replies += 1
        self.prompt_tokens += paid.prompt_tokens
        self.completion_tokens += paid.completion_tokens

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Paid | None:
        """The reply filed under ``key``."""
        place = self._places.get(key)
        return None if place is None else _paid(json.loads(os.pread(self._descriptor, place[1], place[0])))

    async def add(self, key: str, paid: Paid) -> None:
        """File a reply; returns when it is safe on disk. Replies that arrive together share one fsync."""
        row = {
            "key": key,
            "text": paid.text,
            "prompt_tokens": paid.prompt_tokens,
            "completion_tokens": paid.completion_tokens,
        }
        line = json.dumps(row, ensure_ascii=True).encode() + b"\n"
        start = self._end
        self._end += len(line)
        self._waiting.append(line)
        async with self._flushing:
            if start >= self._written:  # else an earlier holder of the lock wrote it
                block, self._waiting = b"".join(self._waiting), []
                try:
                    await asyncio.to_thread(self._write, block)
                except OSError as error:
                    raise writing_error(self.path, error) from error
        self._file(key, paid, start, len(line))

    def _write(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)
        self._written += len(block)

    def close(self) -> None:
        os.close(self._descriptor)
        self._lock.close()


def key_of(describe: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> str:
    """What a reply is filed under."""
    content = json.dumps([dict(describe), list(messages)], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _paid(row: Mapping[str, Any]) -> Paid:
    return Paid(row["text"], row["prompt_tokens"], row["completion_tokens"])
