"""How a rollout may end, and what is counted in it. Loads nothing else, for rewards read these names too."""

from __future__ import annotations

from typing import Literal

Stop = Literal["answered", "length", "turns", "unfinished", "aborted", "engine_error", "tool_error", "prompt_too_long"]
STOPS: tuple[Stop, ...] = (
    "answered",
    "length",
    "turns",
    "unfinished",
    "aborted",
    "engine_error",
    "tool_error",
    "prompt_too_long",
)
#: Ends that are the machinery's doing. Such a rollout says nothing about the policy and is not trained on.
FAULTS: frozenset[Stop] = frozenset(("aborted", "engine_error", "tool_error", "prompt_too_long"))

COUNTS = (
    "turns",
    "tool_calls",
    "tool_calls_ok",
    "unknown_tools",
    "bad_arguments",
    "unknown_ids",
    "unparsable_calls",
    "repeated_calls",
    "refused_calls",
    "cut_answers",
    "response_tokens",
    "model_tokens",
    "tool_tokens",
    *(f"stop_{stop}" for stop in STOPS),
)
