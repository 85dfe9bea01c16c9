"""Strict fakes of hosts: each refuses what the real host refuses, and writes its replies in the host's form."""

from __future__ import annotations

import json
import re

from tests.chat.endpoint import Refusal


def error(message, kind="invalid_request_error"):
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def calls_of(body):
    return [call for message in body["messages"] for call in message.get("tool_calls") or []]


def check_history(body):
    """What every host checks: objects as arguments, unique ids that answers name, plain names, no empty turn."""
    open_ids, seen = [], set()
    for message in body["messages"]:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_ids or not message["content"]:
                raise Refusal(400, error("a tool message must answer a call"))
            open_ids.remove(message["tool_call_id"])
            continue
        if open_ids:
            raise Refusal(400, error("tool_calls must be followed by tool messages for each tool_call_id"))
        if message["role"] == "assistant" and not message.get("content") and not message.get("tool_calls"):
            raise Refusal(400, error("Assistant message must have either content or tool_calls"))
        if message.get("tool_calls") and message["content"] == "":
            raise Refusal(400, error("text content blocks must be non-empty"))
        for call in message.get("tool_calls") or []:
            try:
                arguments = json.loads(call["function"]["arguments"])
            except ValueError as fault:
                raise Refusal(400, error(str(fault), "BadRequestError")) from None
            if not isinstance(arguments, dict) or not re.fullmatch(r"[\w-]{1,64}", call["function"]["name"]):
                raise Refusal(400, error("invalid function call"))
            if call["id"] in seen or not re.fullmatch(r"[\w.:-]{1,64}", call["id"]):
                raise Refusal(400, error("tool_use ids must be unique"))
            seen.add(call["id"])
            open_ids.append(call["id"])
    if seen and not body.get("tools"):
        raise Refusal(400, error("tools= must be given when messages hold tool calls"))


class Host:
    """A well-behaved host; ``check`` refuses a request, ``shape`` changes a response, ``ignores`` calls' switch."""

    ignores = False

    def check(self, body):
        check_history(body)

    def shape(self, data, body):
        return data


class Vllm(Host):
    """Thoughts in ``reasoning``; content null beside calls."""

    def shape(self, data, body):
        message = data["choices"][0]["message"]
        message |= {"reasoning": "hm", "content": message.get("content") or None}
        return data


class Sglang(Host):
    """``finish_reason`` of calls, ids like ``call_`` and hexadecimal digits, ``reasoning_content`` null."""

    def shape(self, data, body):
        message = data["choices"][0]["message"]
        message["reasoning_content"] = None
        for number, call in enumerate(message.get("tool_calls") or []):
            call["id"] = f"call_{len(calls_of(body)):012x}{number:012x}"
        return data


class OpenAI(Host):
    """A reasoning model: ``max_completion_tokens``, the default temperature, no ``top_p``, no unknown field."""

    def check(self, body):
        if "max_tokens" in body:
            words = "Unsupported parameter: 'max_tokens' is not supported with this model."
            raise Refusal(400, error(f"{words} Use 'max_completion_tokens' instead."))
        if body.get("temperature", 1) != 1:
            words = "'temperature' does not support 0.7 with this model. Only the default (1) value is supported."
            raise Refusal(400, error(f"Unsupported value: {words}"))
        if "top_p" in body:
            raise Refusal(400, error("Unsupported parameter: 'top_p' is not supported with this model."))
        known = {"model", "messages", "tools", "tool_choice", "temperature", "max_completion_tokens", "stream"}
        if unknown := set(body) - known:
            raise Refusal(400, error(f"Unrecognized request argument supplied: {sorted(unknown)[0]}"))
        check_history(body)


class DeepSeek(Host):
    """Thinking mode: the thoughts of a turn with calls have to come back."""

    def check(self, body):
        for message in body["messages"]:
            if message.get("tool_calls") and not message.get("reasoning_content"):
                raise Refusal(400, error("The reasoning_content in the thinking mode must be passed back to the API."))
            if "reasoning_content" in message and not message.get("tool_calls"):
                raise Refusal(400, error("reasoning_content of a turn without calls"))
        check_history(body)

    def shape(self, data, body):
        data["choices"][0]["message"]["reasoning_content"] = "thinking about it"
        return data


class OpenRouter(Host):
    """Thoughts as ``reasoning_details``, which come back unchanged; a provider's error inside a 200, now and then."""

    asked = 0

    def check(self, body):
        for message in body["messages"]:
            if message.get("tool_calls") and message.get("reasoning_details") != [{"type": "reasoning.text", "n": 1}]:
                raise Refusal(400, error("reasoning_details must be unmodified"))
        check_history(body)
        self.asked += 1
        if self.asked % 4 == 0:
            raise Refusal(200, {"error": {"message": "Provider returned error", "code": 502}})

    def shape(self, data, body):
        data["choices"][0]["message"] |= {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "n": 1}]}
        if self.asked % 7 == 0:
            data["choices"][0] |= {"finish_reason": "error", "error": {"message": "Upstream failed", "code": 502}}
        return data


class Ollama(Host):
    """``tool_choice`` is not read: its models call until the tools are left out. No usage."""

    ignores = True

    def shape(self, data, body):
        return {**data, "usage": None}


HOSTS = {
    "vllm": Vllm,
    "sglang": Sglang,
    "openai": OpenAI,
    "deepseek": DeepSeek,
    "openrouter": OpenRouter,
    "ollama": Ollama,
}
