"""The policy loop against a scripted engine: masks, budgets, and everything a model or a machine can do wrong."""

import asyncio
import threading
import time

import pytest

from star_rl.errors import StarError
from star_rl.evidence import StoreAnswer
from star_rl.policy.loop import Budget, Generation, rollout, tool_turn
from star_rl.policy.rollout_stats import COUNTS, STOPS
from star_rl.prompts import Slots
from star_rl.tools import ToolAnswer, ToolBox
from star_rl.trajectory import parse, ranking
from tests.fakes import Letters

PROMPT = [1, 2, 3]


TOKENIZER = Letters()


class Script:
    """An engine that says what it is told; a text without end mark is cut off."""

    def __init__(self, *turns, logprobs=True):
        self.turns, self.logprobs, self.asked = list(turns), logprobs, []

    async def generate(self, prompt_ids, sampling_params, request_id):
        self.asked.append((list(prompt_ids), dict(sampling_params), request_id))
        turn = self.turns.pop(0)
        if isinstance(turn, BaseException):
            raise turn
        if isinstance(turn, Generation):
            return turn
        ids = TOKENIZER.encode(turn)[: sampling_params["max_tokens"]]
        return Generation(ids, [-0.5] * len(ids) if self.logprobs else None, "completed")


class Store:
    def answer(self, tool, keys, named=None):
        return None if "?" in keys else StoreAnswer(f"about {', '.join(keys)}", ())


def call(name="UserCF", argument="user_id", key="7"):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"{argument}": "{key}"}}}}\n</tool_call>'


def run(engine, budget=None, tools=None):
    tools = tools or ToolBox(Store())
    return asyncio.run(rollout(engine, TOKENIZER, PROMPT, tools, budget or Budget(), {"temperature": 1.0}))


def spans(result):
    """The response as (mask, text) segments."""
    out = []
    for token, mask in zip(result.response_ids, result.response_mask, strict=True):
        if not out or out[-1][0] != mask:
            out.append((mask, []))
        out[-1][1].append(token)
    return [(mask, TOKENIZER.decode(ids)) for mask, ids in out]


def test_a_turn_without_call_ends_the_rollout():
    result = run(Script("hello<|im_end|>"))
    assert result.stop == "answered" and result.turns == ["hello"]
    assert spans(result) == [(1, "hello<|im_end|>")]
    assert result.logprobs == [-0.5] * 6


def test_answers_stand_between_turns_exactly_as_the_template_writes_them_and_are_not_trained_on():
    first, last = f"a {call()}{call('ItemCF', 'item_ids', 'x')}<|im_end|>", "done<|im_end|>"
    result = run(Script(first, last))
    between = (
        "\n<|im_start|>user\n<tool_response>\nabout 7\n</tool_response>\n<tool_response>\nabout x\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tool_turn(["about 7", "about x"]) == between
    assert spans(result) == [(1, first), (0, between), (1, last)]
    assert [value for value, mask in zip(result.logprobs, result.response_mask, strict=True) if not mask] == [
        0.0
    ] * len(TOKENIZER.encode(between))
    assert result.model_text == first.removesuffix("<|im_end|>") + "\ndone"
    assert "about" not in result.model_text
    assert [message["role"] for message in result.messages] == ["assistant", "tool", "tool", "assistant"]


def test_the_context_grows_by_appending_what_was_sampled():
    odd = Generation([*TOKENIZER.encode(call()), Letters.END], None, None)
    engine = Script(odd, "x<|im_end|>")
    result = run(engine)
    assert engine.asked[0][0] == PROMPT
    context = engine.asked[1][0]
    assert (
        context[: len(PROMPT)] == PROMPT and context[len(PROMPT) :] == result.response_ids[: len(context) - len(PROMPT)]
    )
    assert engine.asked[0][2] == engine.asked[1][2], "one request id for all turns"
    assert result.logprobs is None, "a turn without log-probabilities leaves none for the rollout"


def test_counts_have_the_same_keys_whatever_happens():
    results = [
        run(Script("a<|im_end|>")),
        run(Script(RuntimeError("dead"))),
        run(Script("cut"), Budget(response_tokens=2)),
    ]
    assert all(set(result.counts) == set(COUNTS) for result in results)
    assert all(sum(result.counts[f"stop_{stop}"] for stop in STOPS) == 1 for result in results)


def test_what_a_model_gets_wrong_is_answered_and_counted():
    turn = "\n".join(
        [
            call(),
            call(),
            call("Search", "query", "x"),
            call("UserCF", "item_ids", "7"),
            call("ItemCF", "item_ids", "?"),
            "<tool_call>\n{not json}\n</tool_call>",
        ]
    )
    result = run(Script(turn + "<|im_end|>", "ok<|im_end|>"))
    counts = result.counts
    assert result.stop == "answered"
    assert (counts["tool_calls"], counts["tool_calls_ok"], counts["repeated_calls"]) == (5, 2, 1)
    assert (counts["unknown_tools"], counts["bad_arguments"], counts["unknown_ids"]) == (1, 1, 1)
    assert counts["unparsable_calls"] == 1
    assert sum(message["role"] == "tool" for message in result.messages) == 6


def test_calls_beyond_the_caps_are_refused_and_counted():
    result = run(Script(call() * 3 + "<|im_end|>", "ok<|im_end|>"), Budget(calls_per_turn=2))
    assert (result.counts["tool_calls"], result.counts["refused_calls"]) == (2, 1)
    result = run(Script(call() + "<|im_end|>", call() + "<|im_end|>", "ok<|im_end|>"), Budget(calls=1))
    assert (result.counts["tool_calls"], result.counts["refused_calls"]) == (1, 1)


def test_a_policy_that_only_calls_ends_with_its_turns():
    result = run(Script(*[call() + "<|im_end|>"] * 3), Budget(turns=3))
    assert result.stop == "turns" and result.counts["turns"] == 3
    assert result.response_mask[-1] == 1


def test_the_response_never_exceeds_its_budget():
    first = call() + "<|im_end|>"
    used = len(TOKENIZER.encode(first))
    for room in (used - 1, used, used + 40):
        result = run(Script(first, "more<|im_end|>"), Budget(response_tokens=room))
        assert result.stop == "length" and len(result.response_ids) <= room
        assert result.response_mask == [1] * len(result.response_ids), "an answer that leaves no room is not appended"
    engine = Script("abcdef")
    run(engine, Budget(response_tokens=100, context_tokens=len(PROMPT) + 4))
    assert engine.asked[0][1]["max_tokens"] == 4


def test_a_prompt_that_fills_the_context_is_data():
    result = run(Script(), Budget(context_tokens=3))
    assert result.stop == "prompt_too_long" and not result.response_ids


def test_a_long_answer_is_cut_at_its_end():
    class Long(Store):
        def answer(self, tool, keys, named=None):
            return StoreAnswer("0123456789" * 10, ())

    result = run(Script(call() + "<|im_end|>", "x<|im_end|>"), Budget(answer_tokens=20), ToolBox(Long()))
    assert result.counts["cut_answers"] == 1
    assert result.messages[1]["content"] == "01234567890123456789\n[cut]"


def test_a_dead_store_a_hanging_tool_and_a_failing_engine_end_the_rollout_as_data():
    release = threading.Event()

    class Dead:
        def call(self, name, arguments):
            raise OSError("stale file handle")

    class Slow:
        def call(self, name, arguments):
            release.wait()
            return ToolAnswer("late", True, "ok")

    class Stuck:
        async def generate(self, *_):
            await asyncio.Event().wait()

    turn = call() + "<|im_end|>"
    dead = run(Script(turn), tools=Dead())
    assert dead.stop == "tool_error" and "stale file handle" in dead.error
    slow = run(Script(turn), Budget(tool_seconds=0.05), Slow())
    release.set()
    assert slow.stop == "tool_error" and "0.05" in slow.error
    assert run(Script(RuntimeError("gone"))).stop == "engine_error"
    assert run(Stuck(), Budget(engine_seconds=0.05)).stop == "engine_error"
    aborted = run(Script(Generation(TOKENIZER.encode("half"), None, "aborted")))
    assert aborted.stop == "aborted" and aborted.turns == ["half"]
    assert run(Script(Generation((), None, "aborted"))).response_ids == []


def test_a_prompt_over_its_limit_ends_the_rollout_before_anything_is_asked():
    engine = Script("x<|im_end|>")
    result = run(engine, Budget(prompt_tokens=len(PROMPT) - 1, context_tokens=1000))
    assert (result.stop, result.error) == ("prompt_too_long", "3 prompt tokens, at most 2")
    assert not engine.asked and not result.response_ids
    assert run(engine, Budget(prompt_tokens=len(PROMPT))).stop == "answered"


def test_a_turn_that_stops_early_without_end_mark_is_unfinished():
    assert run(Script("no end")).stop == "unfinished"


def test_the_calls_of_a_turn_run_at_the_same_time():
    together = threading.Barrier(3)

    class Waiting:
        def call(self, name, arguments):
            together.wait(timeout=5)  # passes only when all three are inside
            return ToolAnswer("x", True, "ok")

    result = run(Script(call() + call(key="8") + call(key="9") + "<|im_end|>", "x<|im_end|>"), tools=Waiting())
    assert result.stop == "answered" and result.counts["tool_calls_ok"] == 3


def test_a_tokenizer_without_chat_tokens_and_a_senseless_budget_are_errors():
    class Foreign(Letters):
        def convert_tokens_to_ids(self, token):
            return None

    with pytest.raises(StarError, match="im_end"):
        asyncio.run(rollout(Script(), Foreign(), PROMPT, ToolBox(Store()), Budget(), {}))
    with pytest.raises(StarError, match="turns"):
        Budget(turns=0)
    with pytest.raises(StarError, match="calls"):
        Budget(calls=-1)


def test_a_tool_that_answers_at_once_is_called_in_the_event_loop_and_its_failure_is_data():
    threads = []

    class Immediate:
        immediate = True

        def call(self, name, arguments):
            threads.append(threading.current_thread())
            if arguments["user_id"] == "8":
                raise OSError("gone")
            return ToolAnswer("here", True, "ok")

    result = run(Script(f"{call()}{call()}<|im_end|>", "<|im_end|>"), tools=Immediate())
    assert result.stop == "answered" and result.counts["tool_calls_ok"] == 2
    assert set(threads) == {threading.main_thread()}
    result = run(Script(f"{call(key='8')}<|im_end|>"), tools=Immediate())
    assert result.stop == "tool_error" and "gone" in result.error


def test_the_loop_s_own_time_is_neither_the_engine_s_nor_the_tools():
    class Busy(Script):
        async def generate(self, *arguments):
            until = time.thread_time() + 0.3
            while time.thread_time() < until:
                pass
            return await super().generate(*arguments)

    result = run(Busy(f"{call()}<|im_end|>", "done<|im_end|>"))
    assert result.engine_seconds >= 0.6
    assert 0 < result.own_seconds < 0.3


def test_the_model_reads_and_writes_slots_and_all_others_get_ids():
    slots = Slots("u9", ["i10", "i11"], ["i3"], 1)
    asks = '<tool_call>\n{"name": "ItemCF", "arguments": {"item_ids": ["history"]}}\n</tool_call><|im_end|>'
    ranks = '<recommend>\n<Thinking>c2 wins.</Thinking>\n<JSON>["c2", "c1"]</JSON>\n</recommend><|im_end|>'
    engine = Script(asks, ranks)
    result = run(engine, tools=ToolBox(Store(), slots.candidates, slots=slots))
    assert "about i3" in TOKENIZER.decode(engine.asked[1][0][len(PROMPT) :])  # "history" was looked up by its id
    assert ranking(parse(result.model_text)) == ["i11", "i10"] and "<Thinking>i11 wins." in result.model_text
    assert result.messages[-1]["content"].endswith('["i11", "i10"]</JSON>\n</recommend>')
    assert '"c2", "c1"' in TOKENIZER.decode(result.response_ids), "the tokens that are trained on stay what they were"
