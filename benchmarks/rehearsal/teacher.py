"""A scripted teacher behind an OpenAI-compatible endpoint; ``python -m benchmarks.rehearsal.teacher PORT``.

It plays every agent from the words of its prompt alone: candidates are ranked by how often their words stand in the
record, so that it hits now and then. It calls tools, sends some work back, and writes a short summary for the
abstractor. The same request always gets the same answer.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "scripted-teacher"
_EXPERTS = (
    "User_Profile_Summary",
    "Historical_Interest_Analysis",
    "Recent_Interest_Analysis",
    "Interest_Divergence_Reasoning",
)
_WORD = re.compile(r"[A-Za-z]{4,}|No \d")
_HEADING = re.compile(r"^# ", re.MULTILINE)


def sections(text: str) -> dict[str, list[str]]:
    """Split a prompt at its headings: first word of the heading -> lines below it."""
    found: dict[str, list[str]] = {}
    for part in _HEADING.split(text)[1:]:
        head, *lines = part.splitlines()
        found.setdefault(head.split()[0].rstrip(":"), []).extend([head, *(line for line in lines if line.strip())])
    return found


def ranked(text: str) -> list[str]:
    """Rank the candidates of a prompt by the words they share with the record; the latest entries count most."""
    parts = sections(text)
    candidates = [line for line in parts.get("Candidate", [])[1:] if " | " in line]
    record, weight = Counter[str](), 1.0
    for line in reversed(parts.get("Record", [])[1:]):
        for word in set(_WORD.findall(line)):
            record[word] += weight  # type: ignore[assignment]
        weight = max(0.1, weight * 0.8)
    common = Counter(word for line in candidates for word in set(_WORD.findall(line)))
    scores = {
        line.split(" | ")[0].strip(): sum(record[word] / common[word] for word in set(_WORD.findall(line)))
        for line in candidates
    }
    return sorted(scores, key=lambda item: -scores[item])


def answer(messages: list[dict[str, Any]], tools: bool) -> dict[str, Any]:
    """Return the assistant's message to a request."""
    system, text = str(messages[0]["content"]), str(messages[1]["content"] if len(messages) > 1 else "")
    lot, asked = zlib.crc32(text.encode()), any(message["role"] == "tool" for message in messages)
    if "<JSON>" not in system:  # the abstractor wants a plain text
        kinds = [word for word, _ in Counter(_WORD.findall(text)).most_common(4)]
        return _said(f"The user returns to {', '.join(kinds) or 'nothing in particular'} and rates most of it well.")
    if "make the final choice" in system:
        return _said(_phase("The latest choices and the lasting taste agree.", ranked(text)))
    if "decide who is needed" in system:
        return _said(_phase("The record asks for these specialists.", _EXPERTS[: 2 + lot % 3]))
    if "check the work" in system:
        if "Your work" in text or lot % 5:
            return _said(_phase("The findings follow from the record.", {"correct": "yes"}))
        worst = next((name for name in _EXPERTS if name in text), _EXPERTS[0])
        fault = {"agent_name": worst, "suggestion": "Name the kinds with their counts."}
        return _said(_phase("One finding is thin.", {"correct": "no", "problematic_agent": [fault]}))
    user = re.search(r"^# User (\S+)", text, re.MULTILINE)
    ids = [part for line in sections(text).get("Record", [])[1:] for part in line.split(" | ")[:2] if _is_id(part)]
    if tools and not asked and (ids or user):
        calls = [("ItemCF", {"item_id": ids[-1]})] if ids else []
        if user and lot % 2:
            calls.append(("UserCF", {"user_id": user[1]}))
        return _said("<Thinking>Other users may know more.</Thinking>", calls or [("UserCF", {"user_id": user[1]})])  # type: ignore[index]
    kinds = [word for word, _ in Counter(_WORD.findall(" ".join(sections(text).get("Record", [])))).most_common(3)]
    return _said(_phase("The record repeats itself.", [f"likes {kind}" for kind in kinds] or ["no clear taste"]))


def _is_id(text: str) -> bool:
    return " " not in text.strip() and any(letter.isdigit() for letter in text) and text.count("-") != 2


def _phase(thought: str, result: Any) -> str:
    return f"<Thinking>{thought}</Thinking>\n<JSON>{json.dumps(result)}</JSON>"


def _said(content: str, calls: list[tuple[str, dict[str, str]]] | None = None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            for number, (name, given) in enumerate(calls)
        ]
    return message


class Endpoint(BaseHTTPRequestHandler):
    """The two paths that the teacher's client asks for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = answer(request["messages"], bool(request.get("tools")))
        given = sum(len(str(part.get("content"))) for part in request["messages"]) // 4
        said = len(str(message)) // 4
        usage = {"prompt_tokens": given, "completion_tokens": said, "total_tokens": given + said}
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        self._send({"id": "x", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})

    def _send(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Endpoint).serve_forever()
