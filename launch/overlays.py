"""What a chain's sections ``sft`` and ``grpo`` come to: ms-swift's layers and a GRPO recipe for verl.

Stages, ``plan``, ``submit`` and the check before a run all ask here, so that they speak of the same training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from star_rl.errors import StarError

ROOT = Path(__file__).resolve().parents[1]


def overlay(name: str) -> Path:
    """A recipe overlay, looked up from here and then from the project's root.

    Raises:
        StarError: there is no such file.
    """
    for path in (Path(name), ROOT / name):
        if path.is_file():
            return path
    folder = (ROOT / name).parent
    near = ", ".join(sorted(path.name for path in folder.glob("*.yaml"))) if folder.is_dir() else "none"
    raise StarError(f"there is no recipe {name}", f"{folder.name} holds {near}")


def named(recipe: str | Sequence[str]) -> list[str]:
    """``sft.recipe`` as a list: one overlay, or several of which each is laid over those before."""
    return [recipe] if isinstance(recipe, str) else list(recipe)


def sft_layers(section: Mapping[str, Any]) -> list[Path | Mapping[str, Any]]:
    """The layers of section ``sft`` as ms-swift's recipe takes them.

    Raises:
        StarError: an overlay that does not exist.
    """
    return [*(overlay(name) for name in named(section["recipe"])), section["overrides"]]
