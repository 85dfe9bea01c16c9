"""Read the list in an agent's answer. Nothing that a model writes is run as code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from star_rl.failure import Failure
from star_rl.trajectory.model import decode


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """An agent's answer to a case, and its cost.

    Attributes:
        ranking: ids, best first, as the agent returns them (perhaps foreign or repeated); None if it failed.
        failure: ``malformed`` or ``endpoint``.
        calls: completions, one after the other.
        tokens_in, tokens_out: over all calls, as the endpoint counts them.
        seconds: wall time.
        messages: requests and replies, call after call.
    """

    ranking: list[str] | None
    failure: Failure | None = None
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    messages: list[dict[str, str]] = field(default_factory=list)


class Malformed(Exception):
    """An answer without a usable list; it becomes the failure of an :class:`AgentAnswer`."""


#: Most characters of a list: 20 ids need a few hundred.
_MAX_LIST = 20_000
_BRACKETED = re.compile(r"\[[^\[\]]*\]")
#: One entry of a Python list of strings, numbers and names, and the comma or end after it.
_ENTRY = re.compile(
    r"\s*(?:'((?:[^'\\\n]|\\.)*)'|\"((?:[^\"\\\n]|\\.)*)\"|([-+]?\d+(?:\.\d+)?|None|True|False))\s*(,|$)"
)
_ESCAPE = re.compile(r"\\(.)")
_QUOTES = "'\"`\u2018\u2019\u201c\u201d"


def literal_list(text: str) -> list[str] | None:
    """Read the inside of ``[..]`` as Python would read a list of strings; None if it is not one.

    An entry that is a number or a name is not an id: it becomes an empty string, which matches nothing.
    """
    inside, place, entries = text.strip(), 0, []
    while place < len(inside):
        found = _ENTRY.match(inside, place)
        if found is None:
            return None
        single, double, other, end = found.groups()
        entries.append("" if other is not None else _ESCAPE.sub(r"\1", single if single is not None else double))
        place = found.end()
        if not end:
            break
    return entries


def last_list(text: str) -> list[str]:
    """Return the last bracketed list of the answer, read as Python (as published).

    Raises:
        Malformed: there is no list that Python would read.
    """
    found = _BRACKETED.findall(text)
    if not found:
        raise Malformed("the answer holds no list")
    return _read(found[-1])


def widest_list(text: str) -> list[str]:
    """Return all from the first ``[`` to the last ``]`` as a list (as published by the memory agents, who ran it).

    Raises:
        Malformed: there is no list that Python would read.
    """
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        raise Malformed("the answer holds no list")
    return _read(text[start : end + 1])


def _read(bracketed: str) -> list[str]:
    if len(bracketed) > _MAX_LIST:
        raise Malformed(f"the list has {len(bracketed)} characters")
    entries = literal_list(bracketed[1:-1])
    if entries is None:
        raise Malformed("the list cannot be read")
    if not entries:
        raise Malformed("the list is empty")
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
        entries = literal_list(bracketed[1:-1])
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
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise Malformed("the answer holds no JSON object")
    value, error = decode(text[start : end + 1])
    if error:
        raise Malformed(f"the answer is not JSON: {error}")
    found: dict[str, Any] = value  # valid JSON that begins with a brace is an object
    return found


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
