"""Methods by name: ``random``, ``mars:planner=off:tools=off``, ``star:runs/quickstart/grpo/final:temperature=0``.

A name is followed by an argument and by ``key=value`` options, each after a colon. Makers are named, not imported, so
that a method loads only what it needs.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from star_rl import fingerprints
from star_rl.errors import StarError
from star_rl.evaluation.methods.base import Method

#: Agent workflows over a chat client, named as in the paper's table 1.
AGENTS = ("base", "cot", "memory", "cot_memory", "baseline666", "dummy", "rechacker", "agent4rec")
#: Methods without a language model: ``Class(seed=0, **options)``, with ``fit(visible)`` where they learn.
BASELINES = {
    "random": "star_rl.baselines:Random",
    "popularity": "star_rl.baselines:Popularity",
    "item_knn": "star_rl.baselines:ItemKNN",
    "user_knn": "star_rl.baselines:UserKNN",
    "mf": "star_rl.baselines:MF",
    "lightgcn": "star_rl.baselines:LightGCN",
    "sasrec": "star_rl.baselines:SASRec",
}
_HERE = "star_rl.evaluation.methods"
#: Name -> maker ``(run, spec, seed, folder) -> Method``.
MAKERS = {
    **dict.fromkeys(BASELINES, f"{_HERE}.baseline:make_baseline"),
    "teacher": f"{_HERE}.teacher:make_teacher",
    "mars": f"{_HERE}.teacher:make_teacher",
    "star": f"{_HERE}.student:make_student",
    "fusion": f"{_HERE}.fusion:make_fusion",
    "python": f"{_HERE}.python:make_python",
    **dict.fromkeys(AGENTS, f"{_HERE}.agents:make_agent"),
}


@dataclass(frozen=True, slots=True)
class Spec:
    """A method as the command line names it."""

    text: str
    name: str
    argument: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def no_argument(self) -> None:
        if self.argument:
            raise StarError(f"method {self.name} takes no argument {self.argument!r}", "give key=value")

    def check(self, known: Sequence[str]) -> None:
        for key in self.options:
            if key not in known:
                raise StarError(f"method {self.text!r} has no option {key}", f"one of {', '.join(known)}")


_OPTION = re.compile(r":(?=[A-Za-z_][A-Za-z0-9_.]*=)")
_SWITCH = {"on": True, "off": False, "true": True, "false": False}
#: Options whose value is a word: ``evidence=false`` is no switch.
_WORDS = ("name", "evidence", "memory")


def parse_spec(text: str) -> Spec:
    """Read ``name[:argument][:key=value]..``; ``on`` and ``off`` are switches, numbers are numbers.

    Raises:
        StarError: there is no name, or an unknown one, or a key stands twice.
    """
    head, *pairs = _OPTION.split(text)
    name, _, argument = head.partition(":")
    if not name or "=" in head:
        raise StarError(f"{text!r} names no method", "write name, name:argument or name:key=value")
    if name not in MAKERS:
        raise StarError(f"there is no method {name!r}", f"known: {', '.join(MAKERS)}")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key in options:
            raise StarError(f"method {text!r} gives {key} twice", "give it once")
        options[key] = value if key in _WORDS else _value(value)
    return Spec(text, name, argument, options)


def _value(text: str) -> Any:
    if text.lower() in _SWITCH:
        return _SWITCH[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def load(place: str, name: str) -> Any:
    """Import ``module:attribute``, which makes the method ``name``."""
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise StarError(f"method {name} is not available ({error})", f"known: {', '.join(MAKERS)}") from error


def make(text: str, run: Any, seed: int, folder: Any) -> Method:
    """Make a method by its name.

    Args:
        folder: where a method may keep a cache.

    Raises:
        StarError: the name or an option is unknown; names those that are known.
    """
    spec = parse_spec(text)
    options = dict(spec.options)
    label = options.pop("name", None)
    method: Method = load(MAKERS[spec.name], spec.name)(run, replace(spec, options=options), seed, folder)
    if label is not None:
        method.name = label
    if spec.name != "random":  # which sees the candidates alone
        parts = ("interactions", "kept", "visible") if spec.name in BASELINES else tuple(fingerprints.DATA)
        method.origin = {**method.origin, "data": fingerprints.of_data(run.folder, parts)}
    return method
