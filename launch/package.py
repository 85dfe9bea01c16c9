"""The working tree as a package for a cluster: what belongs to it, how large it is, one zip."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from star_rl.errors import StarError

#: Folders and files that never travel: environments, runs, history, caches, data, and what only developers read.
EXCLUDES = (
    ".*", "__pycache__", "runs", "wandb", "build", "dist", "outputs", "node_modules", "*.egg-info", "*.pyc", "*.log",
    "*.parquet", "*.safetensors", "*.bin", "*.pt", "*.arrow", "*.zip", "*.whl", "*.so", "*.pyd",
    "/tests", "/docs", "/benchmarks", "/packaging",
)  # fmt: skip
#: Refused above this many bytes of zip unless the caller raises it; the project itself takes a few hundred kB.
LIMIT = 8 << 20
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Package:
    """A tree to be sent.

    Attributes:
        root: the folder.
        files: path relative to ``root`` -> bytes on disk.
        digest: of names and contents; equal trees have equal digests.
    """

    root: Path
    files: Mapping[str, int]
    digest: str

    @property
    def bytes(self) -> int:
        """Uncompressed."""
        return sum(self.files.values())

    def largest(self, count: int = _SHOWN) -> list[tuple[str, int]]:
        """The largest files, largest first."""
        return sorted(self.files.items(), key=lambda entry: (-entry[1], entry[0]))[:count]


def project_root() -> Path:
    """The tree to send: the current folder if it is a checkout, else the checkout that this code runs from."""
    here, own = Path.cwd(), Path(__file__).resolve().parents[1]
    for folder in (here, own):
        if (folder / "setup.py").is_file() and (folder / "star_rl").is_dir():
            return folder
    return here


def collect(root: str | Path, excludes: Sequence[str] = EXCLUDES) -> Package:
    """List what would be sent.

    Args:
        root: the tree.
        excludes: globs of names; with a leading ``/``, of names directly under ``root``.

    Raises:
        StarError: there is no such folder, or nothing is left of it.
    """
    root = Path(root).resolve()
    if not root.is_dir():
        raise StarError(f"there is no folder {root}", "give the project's folder")
    files, total = {}, hashlib.sha256()
    for path in sorted(_walk(root, tuple(excludes))):
        name = path.relative_to(root).as_posix()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StarError(f"cannot read {name} of the working tree: {error.strerror}", "mend or remove it") from error
        files[name] = len(content)
        total.update(f"{name}\0{len(content)}\0".encode() + content)
        if sum(files.values()) > 64 * LIMIT:
            break  # far too large whatever follows: the check below names the largest
    if not files:
        raise StarError(f"nothing of {root} is left to send", "submit from the project's folder")
    return Package(root, files, total.hexdigest())


def _walk(root: Path, excludes: Sequence[str]) -> Iterator[Path]:
    def out(name: str, top: bool) -> bool:
        return any(
            fnmatch.fnmatch(name, pattern[1:]) and top if pattern.startswith("/") else fnmatch.fnmatch(name, pattern)
            for pattern in excludes
        )

    for folder, folders, names in os.walk(root):
        top = Path(folder) == root
        folders[:] = sorted(name for name in folders if not out(name, top))
        for name in names:
            path = Path(folder) / name
            if not out(name, top) and path.is_file():
                yield path


def write(package: Package, target: Path, extra: Mapping[str, bytes] | None = None, limit: int = LIMIT) -> int:
    """Write the zip; returns its bytes.

    Args:
        extra: further files, name -> content.
        limit: bytes of the zip above which nothing is sent.

    Raises:
        StarError: the zip would be larger than ``limit``; names the largest files.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in package.files:
            # A fixed date: the same tree is the same zip, which Ray then need not upload again.
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, (package.root / name).read_bytes())
        for name, content in sorted((extra or {}).items()):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o600 << 16
            archive.writestr(info, content)
    size = target.stat().st_size
    if size > limit:
        target.unlink()
        worst = ", ".join(f"{name} ({length / 2**20:.1f} MB)" for name, length in package.largest())
        raise StarError(
            f"the package is {size / 2**20:.1f} MB, more than {limit / 2**20:.1f}; its largest files are {worst}",
            "move data out of the tree (runs/ and dot folders are left out), or raise --limit",
        )
    return size
