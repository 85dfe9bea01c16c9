"""The language-model backend: each agent is a conversation with an endpoint, with tools as real function calls.

A malformed answer is asked for once more, with the error; a second one is an :class:`AgentFailure`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from star_rl.chat import CallRequest, ChatClient, ChatReply
from star_rl.mars.abstractor import Abstractor
from star_rl.mars.agents import Agent, AgentFailure, Step, View
from star_rl.mars.calls import ask
from star_rl.options import Count, Size, options
from star_rl.prompts import PromptOptions, Summary, estimate_tokens, valid, valid_json
from star_rl.prompts.agents import Brief, agent_messages, complaint
from star_rl.tools import TOOL_SCHEMAS
from star_rl.trajectory import (
    EXPERTS,
    BadCall,
    Json,
    Response,
    Text,
    Thinking,
    ToolCall,
    compact_json,
    json_block,
    neutral,
    parse,
)
from star_rl.trajectory.model import call_of, decode

_THINK = re.compile(r"</?think>")
_FENCE = re.compile(r"^```\w*\n|\n```$")
_REFUSED = "Not answered: too many calls. Give your result now."
_UNREADABLE = "This call could not be read: give the arguments as a JSON object."


@options
class LlmOptions:
    """Options of the agents' conversations. All affect results.

    Attributes:
        turns: most answers of one agent, malformed ones included.
        calls: most tool calls of one agent that are answered; ``calls_per_turn`` in one turn.
        tokens: most prompt and completion tokens of one agent; 0 = no limit.
        chunk: interactions in a chunk of the abstractor; 0 = no abstractor.
        words: most words of a summary.

    Raises:
        StarError: a value is out of range.
    """

    turns: Size = 6
    calls: Count = 12
    calls_per_turn: Size = 6
    tokens: Count = 0
    chunk: Count = 40
    words: Size = 500


class LlmBackend:
    """The agents played by a language model.

    Args:
        chat: the endpoint or endpoints.
        options: see :class:`LlmOptions`.
        prompt: options of the student's prompt: the agents see of a task what the student will see.
        length: counts the tokens of the student's prompt.
    """

    def __init__(
        self,
        chat: ChatClient,
        options: LlmOptions | None = None,
        prompt: PromptOptions | None = None,
        length: Callable[[str], int] = estimate_tokens,
    ) -> None:
        self.chat, self.options = chat, options or LlmOptions()
        self.prompt, self.length = prompt or PromptOptions(), length
        self.abstractor = Abstractor(chat, self.options.chunk, self.options.words) if self.options.chunk else None

    @property
    def describe(self) -> dict[str, Any]:
        return {"backend": "llm", "prompt": asdict(self.prompt), **asdict(self.options), **self.chat.describe}

    async def ready(self) -> None:
        await self.chat.ready()

    async def act(self, agent: Agent, view: View) -> Step:
        step = Step(agent.name, agent.tag, view.round)
        case = view.case
        if self.abstractor is not None and case.summary is None:
            text, recent = await self.abstractor.abstract(case, step)
            if count := len(case.history) - len(recent):
                ends = case.history[0].timestamp, case.history[count - 1].timestamp
                case = replace(case, summary=Summary(text, count, *ends))
        return await _Conversation(self, agent, replace(view, case=case), step).run()


class _Conversation:
    """One agent's conversation."""

    def __init__(self, backend: LlmBackend, agent: Agent, view: View, step: Step) -> None:
        self.backend, self.chat, self.options = backend, backend.chat, backend.options
        self.agent, self.view, self.step = agent, view, step
        self.tools = TOOL_SCHEMAS if view.tools is not None else None
        self.answered = 0
        self.messages: list[dict[str, Any]] = []
        self._add(*agent_messages(agent.name, self._brief(), bool(self.tools)))

    def _add(self, *messages: dict[str, Any]) -> None:
        self.messages += messages
        self.step.messages += messages

    def _brief(self) -> Brief:
        view = self.view
        latest = {step.agent: step for step in view.done if step.agent in EXPERTS}
        own = latest.get(self.agent.name)
        return Brief(
            view.case,
            findings=[(name, compact_json(step.value)) for name, step in latest.items() if step is not own],
            suggestion=view.suggestion,
            previous=compact_json(own.value) if own and view.suggestion else "",
            top=view.ranked,
            prompt=self.backend.prompt,
            length=self.backend.length,
        )

    async def run(self) -> Step:
        step = self.step
        for turn in range(1, self.options.turns + 1):
            spent = step.prompt_tokens + step.completion_tokens
            if self.options.tokens and spent >= self.options.tokens:
                raise AgentFailure("tokens", f"{spent} tokens, the budget is {self.options.tokens}", step)
            tools = self.tools if turn < self.options.turns else None  # the last turn has to give a result
            reply = await ask(self.chat, step, self.messages, tools, self.view.sample)
            words, calls, result = read_answer(reply)
            thinking = [Thinking(words)] if words else []
            if calls and self.tools:
                step.blocks += thinking
                self._answer(words, calls)
                continue
            fault = self._fault(calls, result)
            if not fault and result is not None:
                step.value = valid_json(result.value)
                step.blocks += [*thinking, json_block(step.value)]
                return step
            self._add({"role": "assistant", "content": reply.text}, {"role": "user", "content": complaint(fault)})
            if step.attempts > 1:
                raise AgentFailure("malformed", fault, step)
            step.attempts += 1
        raise AgentFailure("calls", f"no result within {self.options.turns} turns", step)

    def _fault(self, calls: list[CallRequest], result: Json | None) -> str:
        if calls:
            return "there are no tools to call"
        if result is None:
            return "it holds no JSON result"  # without a tag: a complaint is defused like foreign text
        return f"the result is not JSON: {result.error}" if result.error else self.agent.check(result.value, self.view)

    def _answer(self, words: str, calls: list[CallRequest]) -> None:
        """Answer a turn's calls: all calls first, then all answers, as in a trajectory."""
        assert self.view.tools is not None
        blocks = [call_of(_as_block(call)) for call in calls]
        answers = []
        for position, block in enumerate(blocks):
            if position >= self.options.calls_per_turn or self.answered >= self.options.calls:
                answers.append(_REFUSED)
            elif isinstance(block, BadCall):
                answers.append(_UNREADABLE)
            else:
                self.answered += 1
                answers.append(self.view.tools.call(block.name, block.arguments).text)
        self.step.blocks += [*blocks, *map(Response, answers)]
        requests = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
        self._add(
            {"role": "assistant", "content": words, "tool_calls": requests},
            *(
                {"role": "tool", "tool_call_id": call.id, "content": answer}
                for call, answer in zip(calls, answers, strict=True)
            ),
        )


def _as_block(call: CallRequest) -> str:
    """Return a function call as the inside of a ``<tool_call>`` block; invalid JSON stays as text, its tags defused."""
    value, error = decode(call.arguments or "{}")
    if error:
        return neutral(valid(f"{call.name}: {call.arguments}")).strip()
    return compact_json(valid_json({"name": call.name, "arguments": value}))


def read_answer(reply: ChatReply) -> tuple[str, list[CallRequest], Json | None]:
    """Return (reasoning, calls, result) of an answer; never raises.

    Calls are the endpoint's structured ones, or those written inline if the server does not parse them. Without a
    ``<JSON>`` block, the whole text is the result if it is JSON, in a code fence or bare.
    """
    trajectory = parse(_THINK.sub("", valid(reply.text)))
    words: list[str] = []
    inline: list[CallRequest] = []
    result: Json | None = None
    for phase in trajectory.phases:
        for block in phase.blocks:
            match block:
                case Thinking(text) | Text(text):
                    words.append(text.strip())
                case ToolCall(name, arguments):
                    inline.append(CallRequest(f"inline_{len(inline)}", name, json.dumps(arguments)))
                case Json():
                    result = block
                case _:
                    continue  # a call that does not parse, or an answer that the model invented
    calls = list(reply.tool_calls) or inline
    if result is None and not calls and len(words) == 1:
        bare = Json(_FENCE.sub("", words[0]).strip())
        if not bare.error and isinstance(bare.value, (list, dict)):
            return "", [], bare
    return "\n".join(word for word in words if word), calls, result
