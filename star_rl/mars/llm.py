"""Agents played by a language model: each is a conversation with an endpoint, with tools as real function calls.

A malformed answer is asked for once more, with the error; a second one is an :class:`AgentFailure`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from star_rl import deadline
from star_rl.chat import CallRequest, ChatClient, ChatReply
from star_rl.mars.agents import Agent, AgentFailure, Step, View
from star_rl.options import Count, Positive, Size, options
from star_rl.prompts import PromptOptions, estimate_tokens, one_line, student_prompt, valid, valid_json
from star_rl.prompts.agents import Brief, agent_messages, complaint
from star_rl.prompts.memory import reflect_prompt
from star_rl.tools import schemas_of
from star_rl.trajectory import (
    EXPERTS,
    BadCall,
    Json,
    Response,
    Text,
    Thinking,
    ToolCall,
    Trajectory,
    compact_json,
    json_block,
    neutral,
    parse,
    render,
)
from star_rl.trajectory.grammar import PLAN
from star_rl.trajectory.model import call_of, decode

_THINK = re.compile(r"</?think>")
_FENCED = re.compile(r"```\w*\s*(.*?)```", re.DOTALL)
#: Names and ids that every host accepts in a history.
_PLAIN_NAME, _PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}"), re.compile(r"[A-Za-z0-9_.:-]{1,64}")
#: In place of an empty answer: hosts refuse an assistant turn without content, and two user turns in a row.
_NO_ANSWER = "(no answer)"
_REFUSED = "Not answered: too many calls. Give your result now."
_UNREADABLE = "This call could not be read: give the arguments as a JSON object."


@options
class LlmOptions:
    """Options of the agents' conversations. All affect results.

    Attributes:
        turns: most answers of one agent, malformed ones included.
        calls: most tool calls of one agent that are answered; ``calls_per_turn`` in one turn.
        tokens: most prompt and completion tokens of one agent; 0 = no limit.
        tool_seconds: a tool of one's own that takes longer fails the run, which is asked for again.

    Raises:
        StarError: a value is out of range.
    """

    turns: Size = 6
    calls: Count = 12
    calls_per_turn: Size = 6
    tokens: Count = 0
    tool_seconds: Positive = 10.0


class LlmBackend:
    """The agents played by a language model.

    Args:
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

    @property
    def describe(self) -> dict[str, Any]:
        return {"backend": "llm", "prompt": asdict(self.prompt), **asdict(self.options), **self.chat.describe}

    async def ready(self, tools: bool = False) -> None:
        await self.chat.ready(schemas_of(self.prompt.own) if tools else None)

    async def act(self, agent: Agent, view: View) -> Step:
        step = Step(agent.name, agent.tag, view.round)
        return await _Conversation(self, agent, view, step).run()


class _Conversation:
    """One agent's conversation."""

    def __init__(self, backend: LlmBackend, agent: Agent, view: View, step: Step) -> None:
        self.backend, self.chat, self.options = backend, backend.chat, backend.options
        self.agent, self.view, self.step = agent, view, step
        self.tools = schemas_of(backend.prompt.own) if view.tools is not None else None
        self.answered = 0
        self.ids: set[str] = set()
        latest = {one.agent: one for one in view.done if one.agent in EXPERTS}
        own = latest.get(agent.name)
        brief = Brief(
            view.case,
            findings=[(name, compact_json(one.value)) for name, one in latest.items() if one is not own],
            suggestion=view.suggestion,
            previous=compact_json(own.value) if own and view.suggestion else "",
            top=view.ranked,
            prompt=backend.prompt,
            length=backend.length,
        )
        if backend.prompt.scope == "rank":
            self.messages: list[dict[str, Any]] = _as_student(backend, view)
        else:
            self.messages = list(agent_messages(agent.name, brief, bool(self.tools)))
        step.messages += self.messages

    def _add(self, *messages: dict[str, Any]) -> None:
        self.messages += messages
        self.step.messages += messages

    async def run(self) -> Step:
        step = self.step
        for turn in range(1, self.options.turns + 1):
            spent = step.prompt_tokens + step.completion_tokens
            if self.options.tokens and spent >= self.options.tokens:
                raise AgentFailure("tokens", f"{spent} tokens, the budget is {self.options.tokens}", step)
            reply = await self._ask(last=turn == self.options.turns)
            words, calls, result = read_answer(reply)
            thinking = [Thinking(words)] if words else []
            if calls and self.tools:
                step.blocks += thinking
                await self._answer(words, calls, reply)
                continue
            fault = self._fault(calls, result)
            if not fault and result is not None:
                step.value = valid_json(result.value)
                step.blocks += [*thinking, json_block(step.value)]
                return step
            said = reply.text if reply.text.strip() else _NO_ANSWER
            self._add({"role": "assistant", "content": said}, {"role": "user", "content": complaint(fault)})
            if step.attempts > 1:
                raise AgentFailure("malformed", fault, step)
            step.attempts += 1
        raise AgentFailure("calls", f"no result within {self.options.turns} turns", step)

    async def _ask(self, last: bool) -> ChatReply:
        """Ask for the next turn. The last one has to give a result: calls are switched off, and if the host ignores
        that, earlier calls are shown as text and the tools left out."""
        called = any("tool_calls" in message for message in self.messages)
        request: dict[str, Any] = {"tools": self.tools if called or not last else None, "sample": self.view.sample}
        if last and called:
            request["tool_choice"] = "none"
        reply = await self.step.ask(self.chat, self.messages, **request)
        if last and called and read_answer(reply)[1]:
            reply = await self.step.ask(self.chat, _without_calls(self.messages), sample=self.view.sample)
        return reply

    def _fault(self, calls: list[CallRequest], result: Json | None) -> str:
        if calls:
            return "there are no tools to call"
        if result is None:
            return "it holds no JSON result"  # without a tag: a complaint is defused like foreign text
        return f"the result is not JSON: {result.error}" if result.error else self.agent.check(result.value, self.view)

    async def _answer(self, words: str, calls: list[CallRequest], reply: ChatReply) -> None:
        """Answer a turn's calls, all calls before all answers. What the model wrote goes back in a form that every
        host accepts."""
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
                answers.append(await self._called(block))
        self.step.blocks += [*blocks, *map(Response, answers)]
        requests = []
        for call, block in zip(calls, blocks, strict=True):
            arguments = compact_json(block.arguments) if isinstance(block, ToolCall) else "{}"
            name = call.name if _PLAIN_NAME.fullmatch(call.name) else "unknown"
            function = {"name": name, "arguments": arguments}
            requests.append({"id": self._id(call.id), "type": "function", "function": function})
        self._add(
            {"role": "assistant", "content": words or None, "tool_calls": requests, **reply.reasoning},
            *(
                {"role": "tool", "tool_call_id": request["id"], "content": answer or "(empty)"}
                for request, answer in zip(requests, answers, strict=True)
            ),
        )

    async def _called(self, call: ToolCall) -> str:
        """Return a tool's answer; where a tool of one's own may keep others waiting, it is asked in a thread."""
        assert self.view.tools is not None
        ask = functools.partial(self.view.tools.call, call.name, call.arguments)
        if not self.backend.prompt.own:
            return ask().text
        try:
            return (await deadline.ask(ask, self.options.tool_seconds)).text
        except Exception as error:  # it may fail in any way
            raise AgentFailure("endpoint", f"{call.name}: {deadline.reason(error)}", self.step) from error

    def _id(self, given: str) -> str:
        """Return the host's id of a call if it is plain and new, else one of nine letters and digits."""
        number = len(self.ids)
        while not _PLAIN_ID.fullmatch(given) or given in self.ids:
            given, number = f"call{number:05d}", number + 1
        self.ids.add(given)
        return given


def _as_student(backend: LlmBackend, view: View) -> list[dict[str, Any]]:
    """Return the prompt of a student with two modes: its teacher is asked in the same words."""
    prompt, length = backend.prompt, backend.length
    if view.played is not None:
        return list(reflect_prompt(view.case, view.played, view.predicted, prompt, length).messages)
    messages: list[dict[str, Any]] = list(student_prompt(view.case, prompt, length).messages)
    if view.suggestion:
        before = {"role": "assistant", "content": render(Trajectory([view.done[-1].phase]))}
        messages += [before, {"role": "user", "content": view.suggestion}]
    return messages


def _without_calls(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a history whose calls and answers are text."""
    plain: list[dict[str, Any]] = []
    for message in messages:
        if message.get("tool_calls"):
            made = [f"{one['function']['name']}({one['function']['arguments']})" for one in message["tool_calls"]]
            content = "\n".join(filter(None, [message["content"], f"I called {', '.join(made)}."]))
            plain.append({"role": "assistant", "content": content})
        elif message["role"] != "tool":
            plain.append(message)
        elif plain[-1]["role"] == "user":
            plain[-1] = {"role": "user", "content": f"{plain[-1]['content']}\n\n{message['content']}"}
        else:
            plain.append({"role": "user", "content": f"Make no more calls. The answers:\n\n{message['content']}"})
    return plain


def _as_block(call: CallRequest) -> str:
    """Return a function call as the inside of a ``<tool_call>`` block; invalid JSON stays as text, its tags defused."""
    value, error = decode(call.arguments or "{}")
    if isinstance(value, str):  # JSON within JSON
        inner, fault = decode(value)
        value = value if fault else inner
    if error:
        return neutral(valid(f"{call.name}: {call.arguments}")).strip()
    return compact_json(valid_json({"name": call.name, "arguments": value}))


def read_answer(reply: ChatReply) -> tuple[str, list[CallRequest], Json | None]:
    """Return (reasoning, calls, result) of an answer; never raises.

    Calls are the endpoint's structured ones, or those written inline if the server does not parse them. A result in a
    code fence is read, inside a ``<JSON>`` block or without one; so is an answer that is bare JSON after its thoughts.
    """
    text = valid(reply.text)
    words: list[str] = []
    inline: list[CallRequest] = []
    result: Json | None = None
    for phase in parse(_THINK.sub("", text)).phases:
        for block in phase.blocks:
            match block:
                case Thinking(said) | Text(said):
                    words.append(said.strip())
                case ToolCall(name, arguments):
                    inline.append(CallRequest("", name, json.dumps(arguments)))
                case Json(raw):
                    result = (block.error and _json_in(raw)) or block
                case _:
                    continue  # a call that does not parse, or an answer that the model invented
    calls = list(reply.tool_calls) or inline
    thoughts, _, answer = text.rpartition("</think>")
    if result is None and not calls and (bare := _json_in(answer)):
        return _THINK.sub("", thoughts).strip(), [], bare
    return "\n".join(word for word in words if word), calls, result


def _json_in(text: str) -> Json | None:
    """Return the list or object that a text is, or that its last code fence holds; None if it holds no JSON."""
    for candidate in (text, *reversed(_FENCED.findall(text))):
        found = Json(candidate.strip())
        if not found.error and isinstance(found.value, (list, dict)):
            return found
    return None


class TrainedPlanner:
    """The planner played by a model trained on the SFT set ``planner_only`` (MARS-Planner; paper, section 4.3).

    It gets the prompt of its training, the student's with scope ``plan``, and not the team's planner template.
    """

    def __init__(
        self, chat: ChatClient, prompt: PromptOptions | None = None, length: Callable[[str], int] = estimate_tokens
    ) -> None:
        self.chat, self.length = chat, length
        self.prompt = replace(prompt or PromptOptions(), scope="plan", tools=False)

    @property
    def describe(self) -> dict[str, Any]:
        return {"backend": "trained planner", "prompt": asdict(self.prompt), **self.chat.describe}

    async def ready(self, tools: bool = False) -> None:
        await self.chat.ready()

    async def act(self, agent: Agent, view: View) -> Step:
        """Ask for the plan; ask once more, with the fault, if it is malformed."""
        step = Step(agent.name, agent.tag, view.round, attempts=0)
        step.messages += student_prompt(view.case, self.prompt, self.length).messages
        fault = ""
        while step.attempts < 2:
            step.attempts += 1
            reply = await step.ask(self.chat, list(step.messages), sample=view.sample)
            step.messages.append({"role": "assistant", "content": reply.text if reply.text.strip() else _NO_ANSWER})
            value, thought, fault = _plan_in(reply.text)
            fault = fault or agent.check(value, view)
            if not fault:
                step.value = value
                step.blocks = [*([Thinking(thought)] if thought else []), json_block(value)]
                return step
            # The fault may quote the model, so it is defused.
            again = f"That plan cannot be used: {one_line(fault, 300)}. Write the plan once more."
            step.messages.append({"role": "user", "content": again})
        raise AgentFailure("malformed", fault, step)


def _plan_in(text: str) -> tuple[Any, str, str]:
    """Return (the result of the first plan phase, the thought before it, the fault)."""
    for phase in parse(text).of(PLAN):
        if phase.result is not None:
            thoughts = [block.text for block in phase.blocks if isinstance(block, Thinking)]
            error = phase.result.error and f"the result is not JSON: {phase.result.error}"
            return valid_json(phase.result.value), "\n".join(thoughts), error
    return None, "", "it holds no plan with a JSON result"
