"""The short cut tells what the parser would."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_rl.trajectory import PHASES, faults, outline, parse, ranking
from star_rl.trajectory.grammar import REGULAR
from star_rl.trajectory.model import decode
from tests.rewards.adversarial import CASES, DeceptiveCase, response

THOUGHTS = ("", "a", "a < b", "1<2<3", "<plan>", "</plan>", "<JSON>[]</JSON>", "<Thinking>", "</Think", "< /Thinking>")
RESULTS = (
    '["7", "3"]',
    "[]",
    '{"correct": "yes"}',
    '{"a": "1", "a": "2"}',
    '"7"',
    "null",
    "[7, null]",
    "[1.0, 1, true]",
    "[-0, -0.0, 1E5]",
    "[18446744073709551616]",
    "[1e999]",
    "[NaN]",
    '["\\ud800"]',
    '["\\ud83d\\ude00", "\\u0000"]',
    '["\ud800"]',
    '\ufeff["7"]',
    '\u00a0["7"]',
    ' \n["7"]\t',
    '["7",]',
    '["7"]["3"]',
    "[" * 33 + "]" * 33,
    "[" * 2000,
    "9" * 401,
    "",
)
CALLS = (
    '{"name": "ItemCF", "arguments": {"item_id": "3"}}',
    '\n{"arguments": {"item_id": "3"}, "name": "ItemCF"}\n',
    '{"name": "ItemCF", "arguments": {"item_id": 3}}',
    '{"name": "ItemCF", "arguments": {"item_id": 99999999999999999999}}',
    '{"name": "ItemCF", "arguments": {"item_id": "3"}, "x": 1e999}',
    '{"name": "", "arguments": {}}',
    '{"name": "ItemCF", "arguments": []}',
    '["name", "arguments"]',
    "ItemCF(3)",
)
BETWEEN = ("", "\n", " \n\t", "\r\n", "\u2028", "\x1c", "words", "So: > ", "<", "a < b", "</plan>")


def same(text: str) -> bool:
    """Hold the outline to what the parser says; returns whether no parser was needed for it."""
    found = outline(text)
    trajectory = parse(text)
    assert found.tags == trajectory.tags
    assert repr(found.calls) == repr(trajectory.calls)
    assert found.ranking == ranking(trajectory)
    assert found.faults == faults(trajectory)
    return all(not rest for *_, rest in REGULAR.findall(text, max(0, text.find("<"))))


def phase(source: random.Random) -> str:
    """A phase, most often of regular form."""

    def blank() -> str:
        return source.choice(BETWEEN if source.random() < 0.02 else BETWEEN[:8])

    tag = source.choice(PHASES)
    pieces = [f"<{tag}>"]
    for _ in range(source.randrange(4)):
        thought = f"<Thinking>{source.choice(THOUGHTS)}</Thinking>"
        pieces.append(source.choice((thought, f"<tool_call>{source.choice(CALLS)}</tool_call>")))
    pieces += [f"<JSON>{source.choice(RESULTS)}</JSON>"] * (source.random() < 0.97)
    pieces.append(f"</{tag if source.random() < 0.98 else source.choice(PHASES)}>")
    return "".join(piece + blank() for piece in pieces)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_texts_made_to_deceive(case: DeceptiveCase) -> None:
    same(case.text)


def test_both_kinds_of_text_are_among_10_000() -> None:
    source = random.Random(0)
    regular = sum(same("".join(phase(source) for _ in range(source.randrange(9)))) for _ in range(10_000))
    assert 2_000 < regular < 9_000


@given(
    st.lists(st.sampled_from(["<plan>", "</plan>", "<JSON>", "</JSON>", "[]", "\n", "<Thinking>", "</Thinking>", "<"]))
)
def test_heaps_of_tags(pieces: list[str]) -> None:
    same("".join(pieces))


def test_what_is_regular() -> None:
    assert same(response())
    assert same("")
    assert same(response(reflection=""))  # its fault is one of order
    assert same(response('["7",]', call="no"))  # and these are in its blocks
    assert same(response(thinking="first </plan>, then a < b, then <recommend>"))
    assert not same(response(after="</plan>"))
    assert same(response(before="So: "))
    assert same(response().replace("<", "words > <").replace("words > </", "</"))
    assert not same(response(before="</plan>"))
    assert not same(response(before="a < b"))
    assert not same(response()[:-5])


@pytest.mark.parametrize("raw", RESULTS)
def test_the_fast_reading_of_json_is_that_of_the_standard_library(raw: str) -> None:
    value, error = decode(raw)
    if not error:
        assert repr(value) == repr(json.loads(raw))


@given(st.recursive(st.text() | st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.lists))
def test_what_json_writes_is_read_back(value: object) -> None:
    for ascii_only in (True, False):
        raw = json.dumps(value, ensure_ascii=ascii_only)
        assert repr(decode(raw)[0]) == repr(json.loads(raw))
