"""Methods of one's own, from a Python file or module."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_rl import fingerprints
from star_rl.deadline import reason
from star_rl.errors import StarError
from star_rl.evaluation.methods.base import Method
from star_rl.evaluation.methods.baseline import BaselineMethod
from star_rl.evaluation.methods.isolated import Isolated
from star_rl.evaluation.methods.registry import Spec
from star_rl.evidence import EvidenceStore
from star_rl.records import Item
from star_rl.run import Run


class VisibleRun:
    """What a method of one's own sees of a run: nothing that holds an answer or comes after a task. Read on demand.

    Attributes:
        visible: interactions that any method may learn from (Arrow table, ``records.INTERACTIONS``).
        items: by id.
        store: the evidence, as the tools answer.
        config: the recipe's sections.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def visible(self) -> Any:
        return self._run.visible

    @property
    def items(self) -> Mapping[str, Item]:
        return self._run.items

    @property
    def store(self) -> EvidenceStore:
        return self._run.store

    @property
    def config(self) -> Mapping[str, Any]:
        return self._run.config


def make_python(run: Run, spec: Spec, seed: int, folder: Path) -> Method:
    """Make ``python:FILE.py:NAME`` or ``python:MODULE:NAME``: a function ``NAME(run, seed, **options)`` that returns a
    :class:`Method`, or an object with ``name`` and ``rank(context)``."""
    place, _, attribute = spec.argument.rpartition(":")
    try:
        module = _file(place) if place.endswith(".py") else importlib.import_module(place)
        maker = getattr(module, attribute)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise StarError(f"there is no method at {spec.argument!r} ({error})", "give python:FILE.py:NAME") from error
    except Exception as error:  # code of one's own may fail in any way
        raise StarError(f"{place} cannot be imported ({reason(error)})", "mend it") from error
    try:
        made = maker(VisibleRun(run), seed, **spec.options)
    except StarError:
        raise
    except Exception as error:
        raise StarError(f"{spec.text} cannot be made ({reason(error)})", "mend it, or its options") from error
    method = own_method(made)
    file = getattr(module, "__file__", None)
    method.origin = {
        "place": attribute,
        "source": fingerprints.of_file(Path(file)) if file else place,
        "evidence": run.store.fingerprint,
        "seed": seed,
        "options": dict(spec.options),
    }
    return method


def own_method(made: Any) -> Method:
    """Return a user's object as a method; each call works in a thread of its own, so that it cannot block others.

    The source file of its class decides its answers: answers of another version of the file are never reused.

    Raises:
        StarError: it is no :class:`Method` and lacks ``name`` or ``rank(context)``.
    """
    if isinstance(made, Method):
        method: Method = Isolated(made)
    elif not hasattr(made, "name") or inspect.iscoroutinefunction(getattr(made, "rank", None)):
        raise StarError(f"{made!r} is no method", "it has a name and rank(context), or is a Method")
    else:
        method = BaselineMethod(made)
    with contextlib.suppress(OSError, TypeError):  # a class of a notebook has no file
        method.origin = {"source": fingerprints.of_file(Path(inspect.getfile(type(made))))}
    return method


def _file(place: str) -> Any:
    found = importlib.util.spec_from_file_location(Path(place).stem, place)
    if found is None or found.loader is None:
        raise ImportError(place)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
