"""Why a run or an answer has no ranking, as data: code decides by ``kind`` and never by the words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

#: ``endpoint``: a service failed, not the method; the same request is asked again. ``timeout``: no answer within
#: ``limit`` seconds. ``malformed``: the model's answer cannot be used. ``calls``, ``tokens``: a budget is used up.
#: ``error``: anything else.
Kind = Literal["endpoint", "timeout", "malformed", "calls", "tokens", "error"]


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure.

    Attributes:
        message: what happened, on one line.
        agent: the teacher's agent that failed; empty elsewhere.
        limit: seconds that were allowed, of a ``timeout``.
    """

    kind: Kind
    message: str
    agent: str = ""
    limit: float | None = None

    def __str__(self) -> str:
        return ": ".join(part for part in (self.kind, self.agent, self.message) if part)

    @classmethod
    def late(cls, limit: float) -> Failure:
        """Return the failure of a call that took longer than ``limit`` seconds."""
        return cls("timeout", f"no answer within {limit:g} s", limit=limit)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; empty fields are left out."""
        return {name: value for name, value in asdict(self).items() if value not in ("", None)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Failure | None:
        """Return the failure that :meth:`to_json` wrote; None for None."""
        return None if value is None else cls(**value)
