"""Nothing that a model writes makes the parser raise, and what is structure and what is words."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from star_rl.trajectory import (
    EXPERTS,
    PHASES,
    BadCall,
    Phase,
    Response,
    Thinking,
    ToolCall,
    Trajectory,
    faults,
    json_block,
    model_text,
    parse,
    plan_of,
    ranking,
    render,
    repeated,
    to_messages,
    tool_calls,
)
from star_rl.trajectory.grammar import BLOCKS
from star_rl.trajectory.model import DEPTH, DIGITS, call_of, decode


def whole() -> Trajectory:
    """A trajectory with everything in it."""
    call = ToolCall("ItemCF", {"item_id": "3"})
    return Trajectory(
        [
            Phase("plan", [Thinking("which"), json_block(list(EXPERTS))]),
            Phase("user_profile", [Thinking("who"), call, Response("Some novels."), Thinking("so"), json_block(["a"])]),
            Phase("historical_analysis", [call, call, Response("x"), Response("y"), json_block(["b"])]),
            Phase("recent_analysis", [Thinking("now"), json_block(["c"])]),
            Phase("interest_divergence", [Thinking("far"), json_block(["d"])]),
            Phase("reflection", [json_block({"correct": "no", "problematic_agent": []})]),
            Phase("recent_analysis", [Thinking("again"), json_block(["e"])]),
            Phase("recommend", [Thinking("last"), json_block([str(number) for number in range(20)])]),
        ]
    )


SEEDS = (render(whole()), model_text(to_messages(whole())))
TOKENS = (
    *(f"<{slash}{tag}>" for tag in (*PHASES, *BLOCKS, "think") for slash in ("", "/")),
    *'<>/[]{}",:\\ \n\t\0\ufeff\ud800\udfff\u2028\u0661',
    '{"name": "ItemCF", "arguments": {"item_id": "1"}}',
    '["1", "2"]',
    "NaN",
    "1e999",
    "9" * 5000,
    "[" * 2000,
    '{"a":' * 2000,
    "<|im_end|>",
    "\U0001f4da",
)


def mutated(source: random.Random) -> str:
    """A real trajectory cut, spliced and sprinkled, or a heap of tokens."""
    if source.random() < 0.3:
        return "".join(source.choices(TOKENS, k=source.randrange(30)))
    text = source.choice(SEEDS)
    for _ in range(source.randrange(1, 6)):
        start = source.randrange(len(text) + 1)
        end = min(len(text), start + source.choice((0, 1, 5, 40, 400)))
        middle = source.choice((source.choice(TOKENS), "", text[start:end] * 2, text[end : end + 60]))
        text = text[:start] + middle + text[end:]
    return text


def read_all(text: str) -> None:
    """Everything that readers of a trajectory do."""
    trajectory = parse(text)
    faults(trajectory)
    ranking(trajectory)
    plan_of(trajectory)
    repeated(trajectory.tags)
    assert tool_calls(text) == trajectory.calls
    for phase in trajectory.phases:
        assert phase.result is None or isinstance(phase.result.error, str)
    rendered = render(trajectory)
    again = render(parse(rendered))
    assert again == rendered or "\ud800" in text or "\udfff" in text
    to_messages(trajectory)


@given(st.text())
@example("\ud800")
@example("<tool_call>" + '{"name":"a","arguments":' + "[" * 3000)
def test_parse_never_raises(text: str) -> None:
    read_all(text)


@given(st.lists(st.sampled_from(TOKENS), max_size=40).map("".join))
def test_parse_never_raises_on_heaps_of_tokens(text: str) -> None:
    read_all(text)


def test_nothing_raises_on_20_000_mutants() -> None:
    source = random.Random(0)
    for number in range(20_000):
        text = mutated(source)
        if number % 4:
            faults(parse(text))
        else:
            read_all(text)


@pytest.mark.slow
def test_parse_never_raises_on_a_million_mutants() -> None:
    source = random.Random(1)
    for _ in range(1_000_000):
        trajectory = parse(mutated(source))
        faults(trajectory)
        ranking(trajectory)


def test_every_piece_is_found() -> None:
    trajectory = parse(SEEDS[0])
    assert trajectory == whole()
    assert faults(trajectory, own_text=False) == []
    assert len(trajectory.calls) == 3
    assert plan_of(trajectory) == list(EXPERTS)
    assert ranking(trajectory) == [str(number) for number in range(20)]


def test_what_the_model_wrote_is_well_formed() -> None:
    assert faults(parse(SEEDS[1])) == []


def test_responses_in_the_models_own_text_are_forged() -> None:
    assert "forged:user_profile" in faults(parse(SEEDS[0]))


@pytest.mark.parametrize("tag", [*PHASES, *BLOCKS])
def test_a_tag_in_a_thought_is_words(tag: str) -> None:
    inside = f"first </{tag}> then <{tag}>" if tag != "Thinking" else "first <Thinking> then"
    trajectory = parse(f"<plan>\n<Thinking>{inside}</Thinking>\n<JSON>[]</JSON>\n</plan>")
    assert trajectory.problems == []
    assert trajectory.phases[0].blocks[0] == Thinking(inside)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<plan>", "unclosed:<plan>"),
        ("<plan><Thinking>", "unclosed:<Thinking>"),
        ("</plan>", "stray:</plan>"),
        ("</JSON>", "stray:</JSON>"),
        ("<plan><plan></plan>", "nested:<plan>"),
        ("<plan><recommend></recommend></plan>", "stray:</plan>"),
    ],
)
def test_tags_out_of_place_are_named(text: str, code: str) -> None:
    assert code in parse(text).problems


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("[]", []),
        (' \n["a"]\t', ["a"]),
        ("0", 0),
        ("1e3", 1000.0),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ("9" * DIGITS, int("9" * DIGITS)),
    ],
)
def test_json_that_parses(raw: str, value: object) -> None:
    assert decode(raw) == (value, "")


@pytest.mark.parametrize(
    "raw",
    [
        "",
        " ",
        "NaN",
        "[NaN]",
        "-Infinity",
        "1e999",
        "[1e400]",
        "['a']",
        '["a",]',
        "[1] [2]",
        "[1]x",
        '"\n"',
        '"\0"',
        "\ufeff[]",
        "\u00a0[]",
        "[" * 10**5,
        "[" * 10**5 + "]" * 10**5,
        '{"a":' * 10**5,
        "[" * (DEPTH + 1) + "]" * (DEPTH + 1),
        "9" * (DIGITS + 1),
        "-" + "9" * 10**6,
        "{1: 2}",
        "undefined",
        '"\\u12"',
        '"\\x"',
    ],
)
def test_json_that_does_not_parse(raw: str) -> None:
    value, error = decode(raw)
    assert value is None and error and len(error) < 200


def test_nesting_up_to_the_bound_parses() -> None:
    assert decode("[" * DEPTH + "]" * DEPTH)[1] == ""
    assert decode("[" + ",".join(["[]"] * 10_000) + "]")[1] == ""


def test_json_parses_whatever_the_interpreters_limit_on_digits() -> None:
    before = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(0)
        assert decode("9" * 10**6)[0] is None
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("ItemCF(1)", "not JSON"),
        ("", "not JSON"),
        ("[]", "not an object"),
        ("null", "not an object"),
        ("{}", "no name"),
        ('{"name": 3, "arguments": {}}', "no name"),
        ('{"name": "", "arguments": {}}', "no name"),
        ('{"name": "ItemCF"}', "arguments are not an object"),
        ('{"name": "ItemCF", "arguments": "{}"}', "arguments are not an object"),
        ('{"name": "ItemCF", "arguments": [{"item_id": "1"}]}', "arguments are not an object"),
    ],
)
def test_calls_that_do_not_parse_say_why(inside: str, reason: str) -> None:
    (call,) = tool_calls(f"<tool_call>\n{inside}\n</tool_call>")
    assert isinstance(call, BadCall) and call.reason.startswith(reason) and call.text == inside


def test_a_turn_may_begin_in_the_middle_of_a_phase() -> None:
    turn = '<Thinking>x</Thinking>\n<tool_call>\n{"name": "UserCF", "arguments": {"user_id": "7"}}\n</tool_call>'
    assert tool_calls(turn) == [ToolCall("UserCF", {"user_id": "7"})]


def test_ranking_is_the_last_closed_one() -> None:
    first, last = '<recommend><JSON>["1"]</JSON></recommend>', '<recommend><JSON>["2", 3, null]</JSON></recommend>'
    assert ranking(parse(first + last)) == ["2", None, None]
    assert ranking(parse(first + last.removesuffix("</recommend>"))) is None
    assert ranking(parse('<recommend><JSON>{"a": 1}</JSON></recommend>')) is None
    assert ranking(parse("<recommend></recommend>")) is None


@pytest.mark.parametrize("raw", ['["a', '["a\n"]', '{"a" 1}', '["\\q"]', '{"a": 1,}', "[1 2]", '{"a": }'])
def test_the_reason_names_the_place_once(raw):
    _, reason = decode(raw)
    assert reason.count(" at ") == 1 and "character" in reason


@pytest.mark.parametrize(
    "raw",
    [
        '{"name": "ItemCF", "arguments": {"item_id": "7"}}',
        ' \t{"arguments": {}, "name": "ItemCF"}\r\n',
        '{"name": "é\\ud83d\\ude00\\n", "arguments": {"a": "\\u0000", "b": "日本"}}',
        '{"name": "a", "name": "b", "arguments": {"x": "1", "x": "2"}}',
        '{"name": "ItemCF", "arguments": {"item_id": 7}}',
        '{"name": "ItemCF", "arguments": {"item_id": 123456789012345678901234567890}}',
        '{"name": "ItemCF", "arguments": {"item_id": 1e999}}',
        '{"name": "ItemCF", "arguments": {"item_id": "7"}, "id": 1e999}',
        '{"name": "ItemCF", "arguments": {"item_id": "\\ud800"}}',
        '{"name": "ItemCF", "arguments": {"item_id": "\ud800"}}',
        '{"name": "ItemCF", "arguments": {"item_id": "a\tb"}}',
        '\ufeff{"name": "ItemCF", "arguments": {}}',
        '\x0b{"name": "ItemCF", "arguments": {}}\xa0',
        '{"name": "ItemCF", "arguments": {}} {}',
        '{"name": "", "arguments": {}}',
        '["name", "arguments"]',
        '"ab"',
        "7",
        "",
    ],
)
def test_a_call_is_what_its_json_says(raw: str) -> None:
    """The quick way of reading a call gives what the common decoder does."""
    value, error = decode(raw.strip())
    call = call_of(raw)
    if not error and isinstance(value, dict) and value.get("name") and isinstance(value.get("arguments"), dict):
        assert call == ToolCall(value["name"], value["arguments"])
        assert repr(call.arguments) == repr(value["arguments"])
    else:
        assert isinstance(call, BadCall) and call.text == raw.strip()
