"""Run one rollout of the policy over token ids: generate a turn, answer its tool calls, repeat. Where there is an
environment, it may answer a turn without calls, as the user, and the model goes on.

Sampling for difficulty, GRPO rollouts, evaluation and serving all run :func:`rollout`, with different engines. Three
things hold whatever the model writes:

- a sampled token is never decoded and encoded again: the context grows by appending,
- ``response_mask`` is 1 for exactly the model's tokens,
- nothing raises and nothing hangs: each way to end has its own ``stop``.

Notation: P prompt tokens, R response tokens (the model's and the environment's, in order).
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from star_rl import deadline
from star_rl.options import Count, Positive, Size, options
from star_rl.own import Step
from star_rl.policy.rollout_stats import COUNTS, Stop
from star_rl.policy.tokens import Tokenizer, Tokens, tokens_of
from star_rl.tools import ToolAnswer, Tools
from star_rl.trajectory import BadCall, ToolCall, answers_of, neutral, tool_calls

_COUNT_OF_REASON = {"unknown_tool": "unknown_tools", "bad_arguments": "bad_arguments", "unknown_id": "unknown_ids"}
_CUT = "\n[cut]"
_JSON = json.JSONEncoder(sort_keys=True, default=str).encode


class Generation(NamedTuple):
    """One turn as the engine returns it.

    ``token_ids`` include the token that ended the turn. ``logprobs`` (natural log, of the sampled tokens, under the
    sampling distribution) have the same length, or are None. ``stop_reason`` is ``aborted`` if the engine gave up.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float] | None = None
    stop_reason: str | None = None


class Engine(Protocol):
    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Generation:
        """Continue ``prompt_ids``. ``request_id`` is one for all turns of a rollout (prefix caching, routing)."""


@options
class Budget:
    """Limits of one rollout, in tokens unless the name says otherwise.

    prompt_tokens     most P, 0 for no limit; a longer prompt is never cut, its rollout ends at once
    response_tokens   most R: the model's tokens and the environment's
    context_tokens    most P + R, 0 for the engine's limit
    turns             assistant turns
    calls             calls answered in the whole rollout; further ones are refused
    calls_per_turn    calls answered in one turn; the paper makes three at once
    answer_tokens     a longer tool answer, or turn of the environment, is cut at its end
    user_turns        turns of the environment, after which the model's answer is the last
    tool_seconds      a call, or a step of the environment, that takes longer ends the rollout
    engine_seconds    a turn that takes longer ends the rollout
    """

    prompt_tokens: Count = 0
    response_tokens: Size = 8192
    context_tokens: Count = 0
    turns: Size = 16
    calls: Count = 32
    calls_per_turn: Count = 8
    answer_tokens: Size = 1024
    user_turns: Count = 4
    tool_seconds: Positive = 10.0
    engine_seconds: Positive = 1800.0


@dataclass(slots=True)
class Rollout:
    """The result of one rollout.

    Shape: ``response_ids``, ``response_mask`` and ``logprobs`` (where not None) are of length R; ``logprobs`` is 0
    where the mask is 0. ``turns`` holds what the model wrote, turn by turn, without the token that ended it
    and, like ``messages``, with ids in the place of slots; ``counts`` has the keys :data:`COUNTS`, always all of them.
    ``engine_seconds`` and ``tool_seconds`` are spent waiting, ``own_seconds`` is CPU time of the loop alone.
    """

    prompt_ids: list[int]
    response_ids: list[int] = field(default_factory=list)
    response_mask: list[int] = field(default_factory=list)
    logprobs: list[float] | None = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    messages: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0.0))
    stop: Stop = "answered"
    error: str = ""
    engine_seconds: float = 0.0
    tool_seconds: float = 0.0
    own_seconds: float = 0.0

    @property
    def model_text(self) -> str:
        """Everything the model wrote and nothing else: what a reward may read."""
        return "\n".join(self.turns)

    @property
    def answers(self) -> list[str]:
        """What the model wrote between the environment's turns."""
        return answers_of(self.messages)


def render_prompt(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Sequence[dict[str, Any]] | None
) -> list[int]:
    """Return the token ids of a conversation with the generation prompt at its end. Shape: (P,)."""
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tools=list(tools) if tools else None,
        add_generation_prompt=True,
        tokenize=False,
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def tool_turn(answers: Sequence[str]) -> str:
    """Render the tool answers between two assistant turns, as Qwen3's template does."""
    return user_turn("\n".join(f"<tool_response>\n{answer}\n</tool_response>" for answer in answers))


def user_turn(text: str) -> str:
    """Render a user's turn between two assistant turns, as Qwen3's template does."""
    return f"\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


async def rollout(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    toolbox: Tools,
    budget: Budget,
    sampling: Mapping[str, Any],
    request_id: str | None = None,
    environment: Step | None = None,
) -> Rollout:
    """Run the policy once from ``prompt_ids`` (P,) to its end.

    Args:
        sampling: engine parameters (temperature, top_p ..); the loop sets ``max_tokens`` and the stop token.
        request_id: one id for all turns; default random.
        environment: takes the text of a turn without calls, with ids, and returns the user's turn; None is the end.
    """
    request_id = request_id or uuid4().hex
    run = _Run(engine, tokens_of(tokenizer), toolbox, budget, sampling, request_id, list(prompt_ids), environment)
    await run.play()
    return run.finish()


def _key(call: ToolCall) -> str | tuple[str, str, str]:
    """Return a key that equal calls share; for one argument, as in nearly all calls, without the cost of JSON."""
    match list(call.arguments.items()):
        case [(name, str(value))]:
            return call.name, name, value
    return _JSON([call.name, call.arguments])


class _ToolError(Exception):
    """The store, a tool or the environment failed, not the model."""


class _Run:
    """The state of one rollout."""

    def __init__(
        self,
        engine: Engine,
        tokens: Tokens,
        toolbox: Tools,
        budget: Budget,
        sampling: Mapping[str, Any],
        request_id: str,
        prompt_ids: list[int],
        environment: Step | None,
    ) -> None:
        self.engine, self.tokens, self.toolbox, self.budget = engine, tokens, toolbox, budget
        self.environment, self.slots = environment, getattr(toolbox, "slots", None)
        self.sampling, self.request_id, self.out = sampling, request_id, Rollout(prompt_ids)
        self.working = time.thread_time()  # start of the CPU time not yet counted as this rollout's
        self.context = list(prompt_ids)
        self.limit = budget.response_tokens
        if budget.context_tokens:
            self.limit = min(self.limit, budget.context_tokens - len(prompt_ids))
        self.seen: set[str | tuple[str, str, str]] = set()
        self.immediate = bool(getattr(toolbox, "immediate", False))

    async def play(self) -> None:
        longest = self.budget.prompt_tokens
        if self.limit < 1 or 0 < longest < len(self.context):
            self.out.stop = "prompt_too_long"
            limit = f"a context of {self.budget.context_tokens}" if self.limit < 1 else f"at most {longest}"
            self.out.error = f"{len(self.context)} prompt tokens, {limit}"
            return
        while True:
            text = await self._generate()
            if text is None:
                return
            calls, last = tool_calls(text), self.out.counts["turns"] >= self.budget.turns
            if calls and last:
                self.out.stop = "turns"
                return
            try:
                said = None if calls or last else await self._reply(text)
                answers = await self._answer(calls)
            except _ToolError as error:
                self.out.stop, self.out.error = "tool_error", str(error)
                return
            if not calls and said is None:
                return  # answered
            ids = self.tokens.encode(user_turn(said) if said is not None else tool_turn(answers))
            if len(self.out.response_ids) + len(ids) >= self.limit:  # no room for another token of the model
                self.out.stop = "length" if calls else "answered"
                return
            self._append(ids, 0, [0.0] * len(ids))
            self.out.messages.extend({"role": "tool", "content": answer} for answer in answers)
            if said is not None:
                self.out.counts["user_turns"] += 1
                self.out.messages.append({"role": "user", "content": said})

    async def _generate(self) -> str | None:
        """Generate one assistant turn; return its text, or None if the rollout ended with it."""
        out, room = self.out, self.limit - len(self.out.response_ids)
        sampling = {**self.sampling, "max_tokens": room, "stop_token_ids": [self.tokens.end]}
        started = self._rest()
        try:
            async with asyncio.timeout(self.budget.engine_seconds):
                turn = await self.engine.generate(list(self.context), sampling, self.request_id)
        except Exception as error:  # an engine may fail in any way
            out.stop, out.error = "engine_error", f"{type(error).__name__}: {error}"
            return None
        finally:
            out.engine_seconds += self._work() - started
        ids = list(turn.token_ids)[:room]
        self._append(ids, 1, turn.logprobs)
        whole = bool(ids) and ids[-1] == self.tokens.end
        text = self.tokens.decode(ids[:-1] if whole else ids)
        out.turns.append(text)
        out.messages.append({"role": "assistant", "content": text})
        out.counts["turns"] += 1
        if whole:
            return text
        if turn.stop_reason in ("aborted", "abort"):
            out.stop = "aborted"
        else:
            out.stop = "length" if len(out.response_ids) >= self.limit else "unfinished"
        return None

    async def _reply(self, text: str) -> str | None:
        """Return what the environment says to an answer; None where it is over."""
        if self.environment is None or self.out.counts["user_turns"] >= self.budget.user_turns:
            return None
        step = functools.partial(self.environment, self.slots.ids_in(text) if self.slots else text)
        started = self._rest()
        try:
            said = await deadline.ask(step, self.budget.tool_seconds)
            if not isinstance(said, str | None):
                raise TypeError(f"its turn is {type(said).__name__}, no text")
        except Exception as error:  # it may fail in any way
            raise _ToolError(f"the environment: {deadline.reason(error)}") from error
        finally:
            self.out.tool_seconds += self._work() - started
        if said is None:
            return None
        return self._cut(neutral(self.slots.names_in(said) if self.slots else said))

    async def _answer(self, calls: Sequence[ToolCall | BadCall]) -> list[str]:
        """Answer all calls of a turn, in order; calls that may wait run concurrently."""
        pending = [self._admit(call, position) for position, call in enumerate(calls)]
        asked = [entry for entry in pending if isinstance(entry, ToolCall)]
        started = self._rest()
        try:
            if self.immediate:
                answered = [self._ask(call) for call in asked]
            else:
                answered = await asyncio.gather(*(self._await(call) for call in asked))
        finally:
            self.out.tool_seconds += self._work() - started
        given = iter(answered)
        return [self._counted(next(given)) if isinstance(entry, ToolCall) else entry for entry in pending]

    def _admit(self, call: ToolCall | BadCall, position: int) -> ToolCall | str:
        """Return the call, or the text that answers it if no tool is asked."""
        counts = self.out.counts
        if isinstance(call, BadCall):
            counts["unparsable_calls"] += 1
            return "This call could not be read: write a JSON object with a name and arguments."
        if position >= self.budget.calls_per_turn or counts["tool_calls"] >= self.budget.calls:
            counts["refused_calls"] += 1
            return "Not answered: too many calls."
        counts["tool_calls"] += 1
        key = _key(call)
        counts["repeated_calls"] += key in self.seen
        self.seen.add(key)
        return call

    def _ask(self, call: ToolCall) -> ToolAnswer:
        try:
            return self.toolbox.call(call.name, call.arguments)
        except (Exception, SystemExit) as error:  # a store may fail in any way
            raise _ToolError(f"{call.name}: {type(error).__name__}: {error}") from error

    async def _await(self, call: ToolCall) -> ToolAnswer:
        """Ask in a thread, so that a store that hangs delays this rollout alone, and only up to the budget."""
        try:
            return await deadline.ask(functools.partial(self._ask, call), self.budget.tool_seconds)
        except deadline.Overdue as error:
            raise _ToolError(f"{call.name} {error}") from error

    def _counted(self, answer: ToolAnswer) -> str:
        """Count a tool's answer; return its text, cut to the budget."""
        self.out.counts["tool_calls_ok"] += answer.ok
        if answer.reason in _COUNT_OF_REASON:
            self.out.counts[_COUNT_OF_REASON[answer.reason]] += 1
        return self._cut(answer.text)

    def _cut(self, text: str) -> str:
        limit = self.budget.answer_tokens
        if len(text.encode()) <= limit:  # a token has at least one byte
            return text
        ids = self.tokens.encode(text)
        if len(ids) <= limit:
            return text
        self.out.counts["cut_answers"] += 1
        return self.tokens.decode(ids[:limit]).rstrip("\ufffd") + _CUT

    def _append(self, ids: Sequence[int], mask: int, logprobs: Sequence[float] | None) -> None:
        out = self.out
        self.context.extend(ids)
        out.response_ids.extend(ids)
        out.response_mask.extend([mask] * len(ids))
        if logprobs is None or len(logprobs) < len(ids):
            out.logprobs = None if ids else out.logprobs
        elif out.logprobs is not None:
            out.logprobs.extend(logprobs[: len(ids)])

    def _rest(self) -> float:
        """Stop counting this rollout's CPU time while others work; return the time."""
        self.out.own_seconds += time.thread_time() - self.working
        return time.perf_counter()

    def _work(self) -> float:
        self.working = time.thread_time()
        return time.perf_counter()

    def finish(self) -> Rollout:
        out = self.out
        if self.slots:
            ids_in = self.slots.ids_in
            out.turns = [ids_in(text) for text in out.turns]
            out.messages = [{**message, "content": ids_in(message["content"])} for message in out.messages]
        self._rest()
        out.counts["response_tokens"] = float(len(out.response_ids))
        out.counts["model_tokens"] = float(sum(out.response_mask))
        out.counts["tool_tokens"] = out.counts["response_tokens"] - out.counts["model_tokens"]
        out.counts[f"stop_{out.stop}"] = 1.0
        return out
