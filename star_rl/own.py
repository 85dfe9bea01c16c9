"""Tools and environments of one's own, by their names in a recipe.

A name is ``path/to/file.py:Name`` or ``package.module:Name``; a tool may also be ``mcp:`` with the URL of an MCP server
or the command that starts one. What is named is a function, or a class that is made once a process (an environment:
once a rollout) with one argument, the run's ``items`` and ``visible`` interactions.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import jsonschema

from star_rl.deadline import reason
from star_rl.errors import StarError
from star_rl.files import import_file, sha256

#: How the name of an MCP server begins; a URL or a command follows.
MCP = "mcp:"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: The step of an environment in one rollout: a model's answer -> what the user says to it, None where it is over.
Step = Callable[[str], str | None]


class BadArguments(Exception):
    """A tool raises it for a call that it cannot answer: its message answers the call, which counts as bad.

    Whatever else a tool raises is the machine's failure: it ends the rollout, which is not trained on.
    """


class Environment(Protocol):
    """A user who may speak after an answer of the model."""

    def reset(self, task: Mapping[str, Any], /) -> None:
        """Begin: ``task_id``, ``user_id`` and the ids of the ``candidates``. The truth is not among them."""

    def step(self, text: str, /) -> str | None:
        """Return the user's turn after an answer, of which the text is given with ids; None where it is over."""


@dataclass(frozen=True)
class OwnTool:
    """A tool: its ``schema`` in OpenAI's function form, and ``run(**arguments)``."""

    schema: dict[str, Any]
    run: Callable[..., Any]

    @cached_property
    def _validator(self) -> Any:
        return jsonschema.Draft202012Validator(self.schema["function"]["parameters"])

    def answer(self, arguments: Mapping[str, Any]) -> tuple[str, Sequence[str] | None]:
        """Return (text, ids that it names best first or None).

        Raises:
            BadArguments: the schema forbids the arguments, or the tool refuses them.
        """
        if error := jsonschema.exceptions.best_match(self._validator.iter_errors(dict(arguments))):
            raise BadArguments(f"{self.schema['function']['name']}: {error.message[:200]}.")
        found = self.run(**arguments)
        text, ids = found if isinstance(found, tuple) else (found, None)
        return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False), ids


def named(name: str, what: str = "tool") -> tuple[ModuleType, Any]:
    """Import ``FILE.py:NAME`` or ``MODULE:NAME``; return the module and what is named there.

    Raises:
        StarError: there is no such file, module or name, or importing it fails.
    """
    place, _, attribute = name.rpartition(":")
    try:
        module = import_file(place) if place.endswith(".py") else importlib.import_module(place)
        return module, getattr(module, attribute)
    except StarError:
        raise
    except (ImportError, AttributeError, ValueError) as error:
        remedy = "give FILE.py:NAME or package.module:NAME"
        raise StarError(f"there is no {what} at {name!r} ({error})", remedy) from error
    except Exception as error:  # code of one's own may fail in any way
        raise StarError(f"{place} cannot be imported ({reason(error)})", "mend it") from error


def schemas(names: Iterable[str]) -> tuple[str, ...]:
    """Return the schemas of tools as JSON; of an MCP server, those of all its tools.

    Raises:
        StarError: a tool was not found, its schema is invalid, or two tools have one name.
    """
    return tuple(json.dumps(tool.schema, ensure_ascii=False) for tool in _tools(names, lambda made: made).values())


def open_tools(names: Iterable[str], data: Any) -> dict[str, OwnTool]:
    """Return tools by the names in their schemas, ready to be called; a class is made with ``data``.

    Raises:
        StarError: see :func:`schemas`; or a class cannot be made.
    """

    def made(found: Any) -> Any:
        return _made(found, data) if isinstance(found, type) else found

    return _tools(names, made)


def open_environment(name: str, data: Any) -> Callable[[Mapping[str, Any]], Step]:
    """Return what makes the step of an environment for a task.

    Raises:
        StarError: the name leads to nothing that has ``reset`` and ``step``.
    """
    kind = named(name, "environment")[1]
    if not all(callable(getattr(kind, part, None)) for part in ("reset", "step")):
        raise StarError(f"loop.environment={name} is no environment", "write a class with reset(task) and step(text)")

    def begin(task: Mapping[str, Any]) -> Step:
        begun: list[Environment] = []

        def step(text: str) -> str | None:
            if not begun:  # here, and not before the first turn: it may take its time, and the loop has a limit
                begun.append(kind(data))
                begun[0].reset(task)
            return begun[0].step(text)

        return step

    return begin


def about(task_id: str, user_id: str, candidates: Sequence[str], follow_up: str | None = None) -> dict[str, Any]:
    """Return what an environment is told of a task; ``follow_up``: what to ask after a reflection (docs/starec.md)."""
    return {"task_id": task_id, "user_id": user_id, "candidates": list(candidates), "follow_up": follow_up}


def names_in(config: Mapping[str, Any]) -> list[str]:
    """Return the names that a recipe's sections ``tools`` and ``loop`` hold, as far as they are given."""
    tools, environment = (config.get("tools") or {}).get("own") or (), (config.get("loop") or {}).get("environment")
    return [*tools, *([environment] if environment else [])]


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the files behind :func:`names_in`, which decide what a stage writes."""
    files = {name: _file_of(name) for name in names_in(config)}
    return {name: sha256(file) for name, file in files.items() if file is not None}


def absolute(name: str) -> str:
    """Return a name that holds in any working directory."""
    place, _, attribute = name.rpartition(":")
    return f"{Path(place).resolve()}:{attribute}" if place.endswith(".py") and not name.startswith(MCP) else name


def _file_of(name: str) -> Path | None:
    place = name.rpartition(":")[0]
    if name.startswith(MCP):
        return None
    found = Path(place) if place.endswith(".py") else getattr(importlib.util.find_spec(place), "origin", None)
    return Path(found) if found and Path(found).is_file() else None


def _tools(names: Iterable[str], made: Callable[[Any], Any]) -> dict[str, OwnTool]:
    tools: dict[str, OwnTool] = {}
    for name in names:
        for tool in _mcp(name) if name.startswith(MCP) else [_python(name, made)]:
            own = _checked(tool.schema, name)
            if own in tools or own in ("UserCF", "ItemCF"):
                raise StarError(f"tools.own={name} brings a second tool {own}", "give it another name")
            tools[own] = tool
    return tools


def _python(name: str, made: Callable[[Any], Any]) -> OwnTool:
    found = named(name)[1]
    schema = getattr(found, "schema", None)
    if not callable(found) or not isinstance(schema, Mapping):
        raise StarError(f"tools.own={name} is no tool", "write a function or a class with an attribute schema")
    return OwnTool(dict(schema), made(found))


def _mcp(name: str) -> list[OwnTool]:
    from star_rl.mcp_tools import server

    place = name.removeprefix(MCP)
    return [OwnTool(schema, server(place).caller(schema["function"]["name"])) for schema in server(place).schemas]


def _checked(schema: Mapping[str, Any], name: str) -> str:
    """Return the tool's name."""
    function = schema.get("function")
    function = function if isinstance(function, Mapping) else {}
    own = function.get("name")
    if schema.get("type") != "function" or not isinstance(own, str) or not _NAME.fullmatch(own):
        what = "its schema has no form {type: function, function: {name, description, parameters}}"
    elif not isinstance(function.get("description"), str) or not isinstance(function.get("parameters"), Mapping):
        what = "its schema lacks a description or the parameters"
    else:
        try:
            jsonschema.Draft202012Validator.check_schema(dict(function["parameters"]))
            return own
        except jsonschema.SchemaError as error:
            what = f"its parameters are no JSON schema ({error.message[:120]})"
    raise StarError(f"tools.own={name}: {what}", "write it as docs/extend.md shows")


def _made(kind: type, data: Any) -> Any:
    try:
        return kind(data)
    except StarError:
        raise
    except Exception as error:
        raise StarError(f"the tool {kind.__name__} cannot be made ({reason(error)})", "mend it") from error
