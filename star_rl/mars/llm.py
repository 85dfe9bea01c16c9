"""The language-model backend: each agent is a conversation with an endpoint, tools offered as real function calls.

Whatever the model writes ends in a step or in an :class:`AgentFailure` with its reason. An answer that is not well
formed is asked for once more, with the error.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from star_rl.chat import CallRequest, ChatClient, ChatError, ChatReply
from star_rl.errors import StarError
from star_rl.mars.abstractor import NAME as ABSTRACTOR
from star_rl.mars.abstractor import Abstract, Abstractor, EmptySummary
from star_rl.mars.agents import Agent, AgentFailure, Step, View
from star_rl.prompts import Behaviour, flavour_of, valid, valid_json
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


@dataclass(frozen=True, slots=True)
class LlmOptions:
    """How the agents' conversations run. Everything here affects results.

    Attributes:
        turns: answers of one agent at most, re-asked ones included.
        calls: tool calls of one agent that are answered.
        calls_per_turn: of these in one turn.
        tokens: prompt and completion tokens that one agent may use, 0 = no limit.
        prompt_tokens: of an agent's first prompt; the oldest raw entries are left out to keep to it.
        chunk: behaviours in a chunk of the abstractor; 0 = the history stays raw.
        words: of a summary.

    Raises:
        StarError: a value is out of range.
    """

    turns: int = 6
    calls: int = 12
    calls_per_turn: int = 6
    tokens: int = 0
    prompt_tokens: int = 12000
    chunk: int = 40
    words: int = 500

    def __post_init__(self) -> None:
        least = {"turns": 1, "calls": 0, "calls_per_turn": 1, "tokens": 0, "prompt_tokens": 500, "chunk": 0, "words": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise StarError(f"teacher option {name} is {getattr(self, name)}", f"give {bound} or more")


class LlmBackend:
    """The agents' work by a language model.

    Args:
        chat: the endpoint or endpoints.
        options: see :class:`LlmOptions`.
    """

    def __init__(self, chat: ChatClient, options: LlmOptions | None = None) -> None:
        self.chat, self.options = chat, options or LlmOptions()
        self.abstractor = Abstractor(chat, self.options.chunk, self.options.words) if self.options.chunk else None

    @property
    def describe(self) -> dict[str, Any]:
        return {"backend": "llm", **asdict(self.options), **self.chat.describe}

    async def ready(self) -> None:
        await self.chat.ready()

    async def act(self, agent: Agent, view: View) -> Step:
        step = Step(agent.name, agent.tag, view.round)
        try:
            abstract = await self._abstract(view, step)
            return await _Talk(self, agent, view, step, abstract).run()
        except ChatError as error:
            raise AgentFailure("endpoint", str(error), step) from None
        except EmptySummary as error:
            raise AgentFailure("malformed", str(error), step) from None

    async def _abstract(self, view: View, step: Step) -> Abstract:
        if self.abstractor is None:
            return Abstract("", view.case.history)
        abstract = Abstract()
        try:
            return await self.abstractor.abstract(view.case, abstract)
        finally:  # what was paid for is recorded whatever came of it
            step.model_calls += abstract.model_calls
            step.cached_calls += abstract.cached_calls
            step.prompt_tokens += abstract.prompt_tokens
            step.completion_tokens += abstract.completion_tokens
            step.messages += [{**message, "agent": ABSTRACTOR} for message in abstract.messages]


class _Talk:
    """One agent's conversation."""

    def __init__(self, backend: LlmBackend, agent: Agent, view: View, step: Step, abstract: Abstract) -> None:
        self.chat, self.options = backend.chat, backend.options
        self.agent, self.view, self.step = agent, view, step
        self.offered = TOOL_SCHEMAS if view.tools is not None else None
        self.talk: list[dict[str, Any]] = list(
            agent_messages(
                agent.name,
                flavour_of(view.case.source),
                self._brief(abstract.summary, abstract.raw),
                bool(self.offered),
            )
        )
        step.messages += self.talk
        self.answered = 0
        self.asked_again = False

    def _brief(self, summary: str, raw: tuple[Behaviour, ...]) -> Brief:
        view, case = self.view, self.view.case
        latest = {step.agent: step for step in view.done if step.agent in EXPERTS}
        own = latest.get(self.agent.name)
        findings = [(name, compact_json(step.value)) for name, step in latest.items() if step is not own]
        return Brief(
            case.user_id,
            case.candidates,
            raw,
            case.items,
            case.user,
            summary,
            findings,
            view.suggestion,
            compact_json(own.value) if own and view.suggestion else "",
            view.ranked,
            self.options.prompt_tokens,
        )

    async def run(self) -> Step:
        for turn in range(self.options.turns):
            reply = await self._ask(last=turn == self.options.turns - 1)
            words, calls, result = read_answer(reply)
            if calls and self.offered:
                if words:
                    self.step.blocks.append(Thinking(words))
                self._answer(words, calls)
                continue
            fault = self._fault(calls, result)
            if not fault and result is not None:
                value = valid_json(result.value)
                if words:
                    self.step.blocks.append(Thinking(words))
                self.step.blocks.append(json_block(value))
                self.step.value = value
                return self.step
            self._again(reply, fault)
        raise AgentFailure("calls", f"no result within {self.options.turns} turns", self.step)

    async def _ask(self, last: bool) -> ChatReply:
        """One completion. On the last turn no tools are offered, so that a result can still come."""
        step = self.step
        spent = step.prompt_tokens + step.completion_tokens
        if self.options.tokens and spent >= self.options.tokens:
            raise AgentFailure("tokens", f"{spent} tokens, the budget is {self.options.tokens}", step)
        reply = await self.chat.complete(self.talk, None if last else self.offered, self.view.sample)
        step.model_calls += 1
        step.cached_calls += reply.cached
        step.prompt_tokens += reply.prompt_tokens
        step.completion_tokens += reply.completion_tokens
        return reply

    def _fault(self, calls: list[CallRequest], result: Json | None) -> str:
        if calls:
            return "there are no tools to call"
        if result is None:
            return "it holds no JSON result"  # no tag here: what is told is defused as foreign words are
        return f"the result is not JSON: {result.error}" if result.error else self.agent.check(result.value, self.view)

    def _again(self, reply: ChatReply, fault: str) -> None:
        said = [
            {"role": "assistant", "content": reply.text},
            {"role": "user", "content": complaint(fault)},
        ]
        self.talk += said
        self.step.messages += said
        if self.asked_again:
            raise AgentFailure("malformed", fault, self.step)
        self.asked_again = True
        self.step.attempts += 1

    def _answer(self, words: str, calls: list[CallRequest]) -> None:
        """Answer a turn's calls: all calls first, then all answers, as a trajectory writes them."""
        assert self.view.tools is not None
        said: list[dict[str, Any]] = [
            {
                "role": "assistant",
                "content": words,
                "tool_calls": [
                    {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                    for call in calls
                ],
            }
        ]
        made = [call_of(_as_block(call)) for call in calls]
        answers = []
        for position, call in enumerate(made):
            if position >= self.options.calls_per_turn or self.answered >= self.options.calls:
                answers.append(_REFUSED)
            elif isinstance(call, BadCall):
                answers.append(_UNREADABLE)
            else:
                self.answered += 1
                answers.append(self.view.tools.call(call.name, call.arguments).text)
        said += [
            {"role": "tool", "tool_call_id": call.id, "content": answer}
            for call, answer in zip(calls, answers, strict=True)
        ]
        self.step.blocks += [*made, *map(Response, answers)]
        self.talk += said
        self.step.messages += said


def _as_block(call: CallRequest) -> str:
    """A function call as the inside of a ``<tool_call>`` block; one that is no JSON stays as it was, its tags
    defused."""
    value, error = decode(call.arguments or "{}")
    if error:
        return neutral(valid(f"{call.name}: {call.arguments}")).strip()
    return compact_json(valid_json({"name": call.name, "arguments": value}))


def read_answer(reply: ChatReply) -> tuple[str, list[CallRequest], Json | None]:
    """(reasoning, calls, result) of an answer; never raises.

    Calls are the endpoint's structured ones, or those written inline where the server does not parse them. Where there
    is no ``<JSON>`` block, the whole text is taken for the result if it is JSON, in a code fence or bare.
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
                    continue  # a call that does not parse, or an answer the model made up: nothing to use
    calls = list(reply.tool_calls) or inline
    if result is None and not calls and len(words) == 1:
        bare = Json(_FENCE.sub("", words[0]).strip())
        if not bare.error and isinstance(bare.value, (list, dict)):
            return "", [], bare
    return "\n".join(word for word in words if word), calls, result
