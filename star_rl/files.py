"""Files that are either whole or absent, their hashes, and the JSON forms everything is written in."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from star_rl.errors import StarError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it replaces ``path`` only when the block ends without an error.

    Raises:
        StarError: the folder cannot be written or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise writing_error(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def writing_error(path: Path, error: OSError) -> Exception:
    """Turn an operating-system error on ``path`` into a message with its remedy; other errors pass unchanged."""
    if error.errno == errno.ENOSPC:
        return StarError(f"the disk that holds {path} is full", "free some space, then run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return StarError(f"cannot write {path}: {error.strerror}", "choose another run folder or mend its permissions")
    return error


@contextlib.contextmanager
def atomic_open(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Like :func:`atomic_path`, with the temporary file opened (UTF-8 unless ``mode`` is binary)."""
    with atomic_path(path) as temporary, open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
        yield handle


def write_text(path: str | Path, text: str) -> None:
    with atomic_open(path) as handle:
        handle.write(text)


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read one JSON file.

    Raises:
        StarError: the file is absent or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StarError(f"there is no file {path}", "check the path, or run the stage that writes it") from error
    except ValueError as error:
        raise StarError(f"{path} is not valid JSON ({error})", "delete it and run the stage that writes it") from error


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> int:
    """Write one JSON value a line; returns how many."""
    count = 0
    with atomic_open(path) as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: str | Path, strict: bool = True) -> Iterator[Any]:
    """Yield the values of a JSON-lines file; a last line cut short by a kill, even within a character, is passed over.

    Args:
        strict: whether a damaged line is an error. Others are passed over: on a network file system, what another
            machine writes may be there in parts, the later one first.

    Raises:
        StarError: a whole line is not JSON, and ``strict``.
    """
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.endswith(b"\n"):
                return
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    if not strict:
                        continue
                    raise StarError(f"line {number} of {path} is not JSON ({error})", "delete that line") from error


def sha256(path: str | Path) -> str:
    """Hash of a file, or of a folder's files in the order of their names."""
    root = Path(path)
    digest = hashlib.sha256()
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    for file in files:
        if file != root:
            digest.update(str(file.relative_to(root)).encode())
        with open(file, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def fingerprint(value: Any) -> str:
    """Short stable hash of any JSON-serialisable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


def import_file(path: str | Path) -> ModuleType:
    """Import a Python file that is not part of a package.

    Raises:
        StarError: there is no such file, or importing it fails.
    """
    file = Path(path)
    found = importlib.util.spec_from_file_location(file.stem, file) if file.is_file() else None
    if found is None or found.loader is None:
        raise StarError(f"there is no Python file {path}", "check the path; it is relative to the current folder")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may fail in any way
        raise StarError(
            f"{path} cannot be imported: {type(error).__name__}: {error}", "correct it, or install what it needs"
        ) from error
    return module
