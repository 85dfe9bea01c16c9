"""Overlays of verl's configuration: merged, and written as Hydra overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers, branch by branch; later ones win. ``+key`` and ``key`` are one key."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            twin = key[1:] if key.startswith("+") else f"+{key}"
            name = twin if twin in out else key
            old = out.get(name)
            out[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def overrides_of(tree: Mapping[str, Any]) -> list[str]:
    """Return a nested mapping as Hydra overrides, e.g. ``{"a": {"+b": 1}}`` as ``["+a.b=1"]``."""
    return [f"{'+' if added else ''}{path}={_literal(value)}" for path, value, added in leaves(tree)]


def leaves(tree: Mapping[str, Any], prefix: str = "", added: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Yield (path, value, whether verl lacks the key) of each entry of a nested mapping."""
    for key, value in tree.items():
        path, new = prefix + str(key).removeprefix("+"), added or str(key).startswith("+")
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}.", new)
        else:
            yield path, value, new


def _literal(value: Any) -> str:
    """Write a value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_literal(entry) for entry in value) + "]"
    text = str(value).replace("\\", "\\\\") if str(value).endswith("\\") else str(value)
    return "'" + text.replace("'", "\\'") + "'"
