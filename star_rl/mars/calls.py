"""One model call of an agent: its cost is counted, and an endpoint that fails becomes the agent's failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from star_rl.chat import ChatClient, ChatError, ChatReply
from star_rl.mars.agents import AgentFailure, Step


async def ask(
    chat: ChatClient,
    step: Step,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None = None,
    sample: int = 0,
    **options: Any,
) -> ChatReply:
    """Return a completion and add its cost to ``step``.

    Raises:
        AgentFailure: the endpoint failed.
    """
    try:
        reply = await chat.complete(messages, tools=tools, sample=sample, **options)
    except ChatError as error:
        raise AgentFailure("endpoint", str(error), step) from None
    step.model_calls += 1
    step.cached_calls += reply.cached
    step.prompt_tokens += reply.prompt_tokens
    step.completion_tokens += reply.completion_tokens
    return reply
