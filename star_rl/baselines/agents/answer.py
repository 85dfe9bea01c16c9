"""Read the list in an agent's answer. Nothing that a model writes is run as code."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from star_rl.failure import Failure
from star_rl.trajectory.model import decode


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """An agent's answer to a case, and its cost."""

    ranking: list[str] | None  #: ids, best first, as the agent returns them (perhaps foreign); None if it failed
    failure: Failure | None = None  #: ``malformed`` or ``endpoint``
    calls: int = 0  #: completions, one after the other
    tokens_in: int = 0  #: over all calls, as the endpoint counts them
    tokens_out: int = 0
    seconds: float = 0.0  #: wall time
    messages: list[dict[str, str]] = field(default_factory=list)  #: requests and replies, call after call


class Malformed(Exception):
    """An answer without a usable list; it becomes the failure of an :class:`AgentAnswer`."""


#: Most characters of a list: 20 ids need a few hundred.
_MAX_LIST = 20_000
_BRACKETED = re.compile(r"\[[^\[\]]*\]")
_QUOTES = "'\"`\u2018\u2019\u201c\u201d"


def _literal(text: str) -> list[str] | None:
    """Read ``[..]`` as Python would; None if it is not a list. An entry that is not a string becomes an empty one."""
    try:
        entries = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return [entry if isinstance(entry, str) else "" for entry in entries] if isinstance(entries, list) else None


def _bracketed(text: str, start: str = "[", end: str = "]", what: str = "list") -> str:
    """Return all from the first ``start`` to the last ``end``.

    Raises:
        Malformed: there is nothing of the kind.
    """
    first, last = text.find(start), text.rfind(end)
    if first < 0 or last < first:
        raise Malformed(f"the answer holds no {what}")
    return text[first : last + 1]


def last_list(text: str) -> list[str]:
    """Return the last bracketed list of the answer, read as Python (as published).

    Raises:
        Malformed: there is no list that Python would read.
    """
    found = _BRACKETED.findall(text)
    return widest_list(found[-1] if found else "")


def widest_list(text: str) -> list[str]:
    """Return all from the first ``[`` to the last ``]`` as a list (as published by the memory agents, who ran it).

    Raises:
        Malformed: there is no list that Python would read.
    """
    bracketed = _bracketed(text)
    if len(bracketed) > _MAX_LIST:
        raise Malformed(f"the list has {len(bracketed)} characters")
    entries = _literal(bracketed)
    if not entries:
        raise Malformed("the list cannot be read" if entries is None else "the list is empty")
    return entries


def candidate_list(text: str, candidates: Sequence[str]) -> list[str]:
    """Return the last bracketed list that names a candidate (mended); quotes may be missing, ids may be numbers.

    Raises:
        Malformed: no list names a candidate.
    """
    known = set(candidates)
    lists = _BRACKETED.findall(text)
    if not lists:
        raise Malformed("the answer holds no list")
    for bracketed in reversed(lists):
        if len(bracketed) > _MAX_LIST:
            continue
        entries = _literal(bracketed)
        if entries is None or "" in entries:
            entries = [entry.strip().strip(_QUOTES).strip() for entry in re.split(r"[,\n]", bracketed[1:-1])]
            entries = [entry for entry in entries if entry]
        if any(entry in known for entry in entries):
            return entries
    raise Malformed("no list in the answer names a candidate")


def json_object(text: str) -> dict[str, Any]:
    """Return the object from the first ``{`` to the last ``}``.

    Raises:
        Malformed: there is no object.
    """
    value, error = decode(_bracketed(text, "{", "}", "JSON object"))
    if error:
        raise Malformed(f"the answer is not JSON: {error}")
    return dict(value)  # valid JSON that begins with a brace is an object


def only_candidates(entries: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """Return the entries that are candidates, each once.

    Raises:
        Malformed: no entry is a candidate.
    """
    known = set(candidates)
    kept = [entry for entry in dict.fromkeys(entries) if entry in known]
    if not kept:
        raise Malformed("the list names no candidate")
    return kept


def with_missing(entries: Sequence[str], candidates: Sequence[str]) -> list[str]:
    """Return ``entries``, then the missing candidates in their order."""
    named = set(entries)
    return [*entries, *(candidate for candidate in candidates if candidate not in named)]
