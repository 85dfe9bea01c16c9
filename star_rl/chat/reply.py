"""Replies of an endpoint: read in every form that hosts send, and what they cost."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: Fields that hold a model's thoughts: vLLM, SGLang and DeepSeek; OpenRouter and newer vLLM.
_REASONING = ("reasoning_content", "reasoning", "reasoning_details")


class InvalidReply(Exception):
    """A response that is no reply, in the host's words. ``filtered``: a content filter stopped it."""

    def __init__(self, message: str, filtered: bool = False) -> None:
        super().__init__(message)
        self.filtered = filtered


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A tool call; ``arguments`` is the text that the model wrote."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One reply. ``seconds`` includes retries and is 0 from the cache; ``finish`` is the server's finish reason.
    ``reasoning``: the message's fields of thoughts, which some hosts want back beside the turn's calls."""

    text: str
    tool_calls: tuple[CallRequest, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cached: bool = False
    finish: str = ""
    reasoning: Mapping[str, Any] = field(default_factory=dict)


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


def read_response(content: bytes) -> dict[str, Any]:
    """Return the parts of a response that are used and cached.

    Raises:
        InvalidReply: no JSON, an error inside a 200, or a message without content.
    """
    text = content.decode("utf-8", "replace").strip()
    if text.startswith(("data:", "event:", ":")):
        return _used(_joined(text))
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidReply(f"no JSON: {words_of(content)}") from None
    try:
        return _used(data)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InvalidReply(f"not a chat completion ({type(error).__name__}): {words_of(content)}") from None


def words_of(content: bytes) -> str:
    """Return a host's own words: the message of its error, the text of an HTML page, or the body."""
    text = content.decode("utf-8", "replace")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE).strip()
    return _error(data) or text


def _error(data: Any) -> str:
    """Return the message of an error in a body or a choice, however it is nested; empty without an error."""
    if isinstance(data, dict):
        for name in ("error", "message", "detail", "msg"):
            if data.get(name) and (found := _error(data[name])):
                metadata = data.get("metadata")
                raw = metadata.get("raw") if isinstance(metadata, dict) else None
                return f"{found} ({raw})" if raw else found
        return ""
    if isinstance(data, list):
        return "; ".join(filter(None, map(_error, data)))
    return data if isinstance(data, str) else ""


def _used(data: Any) -> dict[str, Any]:
    if isinstance(data, dict) and data.get("error"):
        raise InvalidReply(_error(data) or json.dumps(data["error"]))
    if not data["choices"]:
        raise InvalidReply("the response has no choices")
    choice = data["choices"][0]
    message, finish = choice["message"], str(choice.get("finish_reason") or "")
    if choice.get("error") or finish == "error":
        raise InvalidReply(_error(choice.get("error")) or "finish reason error")
    calls = [
        {
            "id": str(call.get("id") or f"call{number:05d}"),
            "name": str(call["function"]["name"]),
            "arguments": _arguments(call["function"].get("arguments")),
        }
        for number, call in enumerate(message.get("tool_calls") or [])
    ]
    reasoning = {name: message[name] for name in _REASONING if message.get(name)}
    text = _text(message.get("content"))
    if not text.strip() and not calls:
        if finish == "content_filter":
            raise InvalidReply("the host's content filter stopped the reply", filtered=True)
        if finish == "tool_calls":
            raise InvalidReply("finish reason tool_calls, but no calls")
        thoughts = _text(reasoning.get("reasoning_content") or reasoning.get("reasoning"))
        if thoughts and finish == "length":
            raise InvalidReply("max_tokens was used up by reasoning, before any content (finish reason length)")
        text = thoughts  # a parser put the whole answer there
    usage = data.get("usage") if isinstance(data.get("usage"), dict) else {}
    return {
        "text": _valid(text),
        "tool_calls": calls,
        "prompt_tokens": int(usage.get("prompt_tokens") or 0),
        "completion_tokens": int(usage.get("completion_tokens") or 0),
        "finish": finish,
        "reasoning": reasoning,
    }


def _text(content: Any) -> str:
    """Return the text of a message's content: a string, a part, or parts; thoughts are left out."""
    if isinstance(content, dict):
        return content["text"] if content.get("type", "text") in ("text", "output_text") else ""
    return "".join(map(_text, content)) if isinstance(content, list) else content or ""


def _arguments(value: Any) -> str:
    """Return arguments as text; some servers send the object itself."""
    return _valid(value) if isinstance(value, str) else json.dumps(value if value is not None else {})


def _valid(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _joined(stream: str) -> dict[str, Any]:
    """Return an event stream as one response.

    Raises:
        InvalidReply: a chunk is invalid or an error, or the stream ended early.
    """
    message: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    usage, finish = None, ""
    for line in stream.splitlines():
        chunk = line.removeprefix("data:").strip()
        if not line.startswith("data:") or chunk in ("", "[DONE]"):
            continue
        try:
            data = json.loads(chunk)
            usage = data.get("usage") or usage
            if data.get("error"):
                raise InvalidReply(_error(data) or chunk)
            for choice in (data.get("choices") or [])[:1]:
                finish = choice.get("finish_reason") or finish
                delta = choice.get("delta") or choice.get("message") or {}
                for name in ("content", *_REASONING[:2]):
                    if delta.get(name):
                        message[name] = message.get(name, "") + _text(delta[name])
                for number, part in enumerate(delta.get("tool_calls") or []):
                    call = calls.setdefault(part.get("index", number), {"id": "", "name": "", "arguments": ""})
                    function = part.get("function") or {}
                    call["id"] = part.get("id") or call["id"]
                    call["name"] += function.get("name") or ""
                    call["arguments"] += _arguments(function.get("arguments") or "")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InvalidReply(f"a chunk of the event stream is invalid: {chunk}") from None
    if not finish:
        raise InvalidReply("the event stream ended before its last chunk")
    message["tool_calls"] = [{"id": call.pop("id"), "function": call} for _, call in sorted(calls.items())]
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def reply_of(data: Mapping[str, Any], seconds: float, cached: bool) -> ChatReply:
    """Return the reply that :func:`read_response` reduced to plain data."""
    plain = {"reasoning": {}, **data, "tool_calls": tuple(CallRequest(**call) for call in data["tool_calls"])}
    return ChatReply(**plain, seconds=seconds, cached=cached)
