"""Recipes: a YAML file over typed defaults, and ``key=value`` on the command line over both.

``source=movielens`` is short for ``source.name=movielens``, and the same holds for every section that has a name.
``reward=..`` is short for ``grpo.reward=..``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from star_rl.errors import StarError
from star_rl.pipeline.options import Recipe

#: What users name most, and where it stands.
_SHORT = {"reward": "grpo.reward"}


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: the YAML file; a ``base: other.yaml`` key (relative to it) is read first.
        overrides: ``section.key=value`` strings, values in YAML.

    Raises:
        StarError: no such file, an unknown key, a value of the wrong type or out of its range.
    """
    merged: Any = OmegaConf.structured(Recipe)
    try:
        for layer in _layers(Path(path)):
            merged = _over(merged, layer)
        for text in overrides:
            merged = _over(merged, _override(merged, text))
        recipe: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise _explain(error, path) from error
    recipe.check()
    return recipe


def _over(merged: Any, layer: DictConfig) -> Any:
    """``layer`` over what there is. Another source has other options: those of the one before are dropped with it."""
    name = OmegaConf.select(layer, "source.name", throw_on_missing=False)
    if name is not None and name != merged.source.name:
        merged.source.options = {}
    return OmegaConf.merge(merged, layer)


def _layers(path: Path) -> Iterator[DictConfig]:
    if not path.is_file():
        near = sorted(str(p) for p in Path("recipes").rglob("*.yaml")) if Path("recipes").is_dir() else []
        raise StarError(f"there is no recipe {path}", f"one of {', '.join(near[:8])}" if near else "check the path")
    try:
        layer = OmegaConf.load(path)
    except Exception as error:
        raise StarError(f"{path} is not valid YAML ({' '.join(str(error).split())[:200]})", "mend the file") from error
    if not isinstance(layer, DictConfig):
        raise StarError(f"{path} holds a list, not sections", "a recipe is a mapping of sections")
    base = layer.pop("base", None)
    if base:
        yield from _layers(path.parent / base)
    yield layer


def _override(config: Any, text: str) -> DictConfig:
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise StarError(f"{text!r} is not an override", "write section.key=value, for instance source.root=DIR")
    name = _SHORT.get(name, name)
    section = OmegaConf.select(config, name, throw_on_missing=False)
    if isinstance(section, DictConfig) and "name" in section and not value.strip().startswith("{"):
        name += ".name"
    return OmegaConf.from_dotlist([f"{name}={value}"])


def keys(section: Any = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the recipe, for suggestions and for the documentation."""
    for field in fields(section):
        inner = field.default_factory if callable(field.default_factory) else None
        if inner is not None and is_dataclass(inner):
            yield from keys(inner, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _explain(error: OmegaConfBaseException, path: str | Path) -> StarError:
    message = " ".join(str(error).split())
    full_key = getattr(error, "full_key", None) or ""
    near = difflib.get_close_matches(full_key, list(keys()), n=3, cutoff=0.5)
    if "not in" in message and near:
        return StarError(f"{path}: there is no option {full_key!r}", f"did you mean {' or '.join(near)}?")
    return StarError(f"{path}: {full_key or 'a value'}: {message.split(' full_key:')[0]}", "see star-rl run --options")
