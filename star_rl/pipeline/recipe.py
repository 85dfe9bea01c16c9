"""Recipes: YAML files over typed defaults, and ``key=value`` on the command line over both.

``source=movielens`` is short for ``source.name=movielens``, and ``reward=..`` for ``grpo.reward=..``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.layers import layers, merge, overrides, resolve
from star_rl.pipeline.options import Recipe

_SHORT = {"reward": "grpo.reward", "source": "source.name"}


def load(name: str | Path, pairs: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: a file or a recipe that ships, see :func:`star_rl.layers.recipe_path`.
        pairs: ``section.key=value`` strings, values in YAML.

    Raises:
        StarError: no such file, an unknown key, a value of the wrong type or out of its range.
    """
    tree = asdict(Recipe())
    for layer in (*layers(name), *map(_override, pairs)):
        source = layer.get("source")
        # Another source has other options: drop those of the layers below.
        if isinstance(source, dict) and source.get("name", tree["source"]["name"]) != tree["source"]["name"]:
            tree["source"]["options"] = {}
        tree = merge(tree, layer)
    return Recipe(**resolve(tree))


def _override(pair: str) -> dict[str, Any]:
    name, equals, value = pair.partition("=")
    name = name.strip()
    if not value.strip().startswith("{"):
        name = _SHORT.get(name, name)
    return overrides([name + equals + value])


def recipe_of(folder: Path) -> Recipe:
    """Load the recipe that a run folder was made by.

    Raises:
        StarError: the folder is not a run's.
    """
    if not (folder / "recipe.yaml").is_file():
        raise StarError(f"{folder} is not a run folder", "name one such as runs/quickstart")
    return load(folder / "recipe.yaml")
