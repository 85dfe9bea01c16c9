"""The layers of a configuration: YAML files over the ones that their ``base:`` names, and ``key=value`` over both."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from star_rl.errors import StarError

#: The recipes that ship. In a checkout ``star_rl/recipes`` is a link to the folder ``recipes``.
RECIPES = Path(str(files("star_rl"))) / "recipes"


def recipe_path(name: str | Path, folder: str | Path = "") -> Path:
    """Return the file of a recipe.

    Args:
        name: a path that exists, or a recipe that ships, such as ``quickstart`` or ``grpo/table5``.
        folder: what a path is relative to (default: the current folder).

    Raises:
        StarError: it is neither; names the recipes nearest to it.
    """
    for path in (Path(folder, name), RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    shipped = [file.relative_to(RECIPES).with_suffix("") for file in sorted(RECIPES.glob("**/*.yaml"))]
    close = difflib.get_close_matches(Path(name).stem, {recipe.name for recipe in shipped})
    near = [recipe for recipe in shipped if recipe.name in close]
    near = near or [recipe for recipe in shipped if recipe.parent.name == Path(name).parent.name] or shipped
    raise StarError(f"there is no recipe {name}", f"give a file, or one of {', '.join(map(str, near))}")


def layers(name: str | Path, above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Read a recipe and those below it, the lowest first.

    ``base:`` names the one below: a file relative to this one, or a recipe that ships. ``1e-5`` is a number, other than
    for PyYAML.

    Args:
        name: see :func:`recipe_path`.
        above: the files that led to it.

    Raises:
        StarError: a file is missing, is not YAML, is not a mapping, or is its own base.
    """
    path = recipe_path(name)
    here = path.resolve()
    if here in above:
        raise StarError(f"{path} is its own base", "correct `base:`")
    layer = load(path)
    base = layer.pop("base", None)
    if not base:
        return [layer]
    try:
        below = recipe_path(str(base), path.parent)
    except StarError as error:
        raise StarError(f"{path} names the base {base}, which does not exist", error.remedy) from error
    return [*layers(below, (*above, here)), layer]


def load(path: Path) -> dict[str, Any]:
    """Read one YAML file as a mapping, references unresolved.

    Raises:
        StarError: the file is not YAML or is not a mapping.
    """
    text = path.read_text(encoding="utf-8")
    try:
        tree = OmegaConf.create(text)
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise StarError(f"{path} is not valid YAML ({_line(error)})", "correct the file") from error
    # OmegaConf takes a bare word for a key
    if not isinstance(tree, DictConfig) or (tree and ":" not in text):
        raise StarError(f"{path} is not a mapping", "write `key: value` lines")
    return {str(key): value for key, value in _plain(tree).items()}


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Return ``key=value`` strings as a mapping; values are YAML, dots nest.

    Raises:
        StarError: a string has no ``=``, or its value is not YAML.
    """
    for pair in pairs:
        if not pair.partition("=")[0].strip() or "=" not in pair:
            raise StarError(f"{pair!r} is not an override", "write section.key=value, for instance source.root=DIR")
        try:
            OmegaConf.from_dotlist([pair])
        except (YAMLError, OmegaConfBaseException) as error:
            raise StarError(f"the value of {pair} is not YAML ({_line(error)})", "put it in quotes") from error
    return _plain(OmegaConf.from_dotlist(list(pairs)))


def merge(*trees: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings branch by branch, the last wins; ``${references}`` stay."""
    return _plain(OmegaConf.merge(*map(dict, trees)))


def resolve(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve a mapping's ``${references}``.

    Raises:
        StarError: one names nothing.
    """
    try:
        return _plain(OmegaConf.create(dict(tree)), resolve=True)
    except OmegaConfBaseException as error:
        raise StarError(f"a reference cannot be resolved ({_line(error)})", "correct its ${..}") from error


def _plain(tree: Any, resolve: bool = False) -> dict[str, Any]:
    made: Any = OmegaConf.to_container(tree, resolve=resolve)
    return dict(made)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
