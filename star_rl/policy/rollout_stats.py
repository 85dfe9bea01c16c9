"""How a rollout may end, and its statistics. Imports nothing heavy, because rewards read these names too."""

from __future__ import annotations

from typing import Literal, get_args

Stop = Literal["answered", "length", "turns", "unfinished", "aborted", "engine_error", "tool_error", "prompt_too_long"]
STOPS: tuple[Stop, ...] = get_args(Stop)
#: Ends that are not the policy's doing. Such a rollout says nothing about the policy and is not trained on.
FAILED: frozenset[Stop] = frozenset(("aborted", "engine_error", "tool_error", "prompt_too_long"))

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
    "user_turns",
    "response_tokens",
    "model_tokens",
    "tool_tokens",
    *(f"stop_{stop}" for stop in STOPS),
)
