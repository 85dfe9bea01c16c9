"""Replies of an endpoint, and what they cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A tool call; ``arguments`` is the text that the model wrote."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One reply. ``seconds`` includes retries and is 0 from the cache; ``finish`` is the server's finish reason."""

    text: str
    tool_calls: tuple[CallRequest, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cached: bool = False
    finish: str = ""


@dataclass(slots=True)
class Usage:
    """Calls and cost of a client. ``faults`` counts failed attempts by kind, ``failed`` calls that were given up."""

    calls: int = 0
    cached: int = 0
    attempts: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """Return plain data for a manifest."""
        return {**asdict(self), "faults": dict(self.faults), "cost": round(self.cost, 6)}


def used(data: Any) -> dict[str, Any]:
    """Return the checked parts of a response that are used and cached."""
    choice = data["choices"][0]
    message = choice["message"]
    text = message.get("content")
    calls = [
        {
            "id": str(call.get("id") or f"call_{number}"),
            "name": str(call["function"]["name"]),
            "arguments": _arguments(call["function"].get("arguments")),
        }
        for number, call in enumerate(message.get("tool_calls") or [])
    ]
    usage = data.get("usage") or {}
    return {
        "text": _valid(text) if isinstance(text, str) else "",
        "tool_calls": calls,
        "prompt_tokens": int(usage.get("prompt_tokens") or 0),
        "completion_tokens": int(usage.get("completion_tokens") or 0),
        "finish": str(choice.get("finish_reason") or ""),
    }


def _arguments(value: Any) -> str:
    """Return arguments as text; some servers send the object itself."""
    return _valid(value) if isinstance(value, str) else json.dumps(value if value is not None else {})


def _valid(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def reply_of(data: Mapping[str, Any], seconds: float, cached: bool) -> ChatReply:
    """Return the reply that :func:`used` reduced to plain data."""
    calls = tuple(CallRequest(call["id"], call["name"], call["arguments"]) for call in data["tool_calls"])
    tokens = (data["prompt_tokens"], data["completion_tokens"])
    return ChatReply(data["text"], calls, *tokens, seconds, cached, data["finish"])
