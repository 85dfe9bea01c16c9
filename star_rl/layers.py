"""The layers of a configuration: YAML files over the ones that their ``base:`` names, and ``key=value`` over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from star_rl.errors import StarError


def layers(path: Path, above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Read a YAML file and the files below it, the lowest first.

    ``base: other.yaml`` names the file below, relative to this one. ``1e-5`` is a number, other than for PyYAML.

    Args:
        path: the file.
        above: the files that led to it.

    Raises:
        StarError: a file is missing, is not YAML, is not a mapping, or is its own base.
    """
    here = path.resolve()
    if here in above:
        raise StarError(f"{path} is its own base", "correct `base:`")
    layer = load(path)
    base = layer.pop("base", None)
    if not base:
        return [layer]
    if not (path.parent / str(base)).is_file():
        raise StarError(f"{path} names the base {base}, which does not exist", "write it relative to the file")
    return [*layers(path.parent / str(base), (*above, here)), layer]


def load(path: Path) -> dict[str, Any]:
    """Read one YAML file as a mapping, references unresolved.

    Raises:
        StarError: the file is missing, is not YAML or is not a mapping.
    """
    if not path.is_file():
        near = sorted(path.parent.glob("*.yaml")) or sorted(Path("recipes").glob("*.yaml"))
        remedy = f"one of {', '.join(map(str, near[:8]))}" if near else "check the path"
        raise StarError(f"there is no recipe {path}", remedy)
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
