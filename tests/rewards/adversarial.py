"""Responses made to deceive a reward, with what each is worth.

``python -m tests.rewards.adversarial`` prints the table.

Every case is a name, a text and the expected format (+1 or -1) and rank of the truth (0 = absent). The truth is
``"7"`` and the candidates are ``"0"`` to ``"19"`` throughout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from star_rl.trajectory import json_block

TRUTH = "7"
CANDIDATES = tuple(str(number) for number in range(20))
_REFLECTION = '<reflection>\n<JSON>{"correct": "yes"}</JSON>\n</reflection>\n'
_OTHERS = [entry for entry in CANDIDATES if entry != TRUTH]


@dataclass(frozen=True, slots=True)
class DeceptiveCase:
    """One response. ``text`` is made on demand, since some are megabytes long."""

    name: str
    make: Callable[[], str]
    format: int
    rank: int

    @property
    def text(self) -> str:
        return self.make()


def ids(rank: int = 1) -> list[str]:
    """Return all candidates with the truth at a rank; 0 leaves it out."""
    return [*_OTHERS[: rank - 1], TRUTH, *_OTHERS[rank - 1 :]] if rank else list(_OTHERS)


def response(
    final: str | None = None,
    *,
    thinking: str = "Two shelves overlap.",
    profile: str = '["likes short novels"]',
    call: str = '{"name": "ItemCF", "arguments": {"item_id": "3"}}',
    before: str = "",
    after: str = "",
    plan: str = '<plan>\n<Thinking>What is known.</Thinking>\n<JSON>["User_Profile_Summary"]</JSON>\n</plan>\n',
    reflection: str = _REFLECTION,
) -> str:
    """Build a response around the last ``<JSON>``'s content; by default well formed with the truth first."""
    ranked = json.dumps(ids()) if final is None else final
    return (
        f"{before}{plan}<user_profile>\n<Thinking>{thinking}</Thinking>\n<tool_call>\n{call}\n</tool_call>\n"
        f"<JSON>{profile}</JSON>\n</user_profile>\n{reflection}"
        f"<recommend>\n<Thinking>Done.</Thinking>\n<JSON>{ranked}</JSON>\n</recommend>{after}"
    )


def _ranked(values: object) -> str:
    return response(json.dumps(values))


_LOST = json.dumps(ids(0))
_FAKE = f"<recommend>\n<JSON>{json.dumps(ids())}</JSON>\n</recommend>"
_MEGA = 1_000_000


def _cases() -> Iterator[DeceptiveCase]:
    def case(name: str, make: Callable[[], str] | str, format: int, rank: int) -> DeceptiveCase:
        return DeceptiveCase(name, make if callable(make) else lambda: make, format, rank)

    yield case("well formed, truth first", response(), 1, 1)
    yield case("well formed, truth third", _ranked(ids(3)), 1, 3)
    yield case("well formed, truth last", _ranked(ids(20)), 1, 20)
    yield case("well formed, truth left out", _ranked(ids(0)), 1, 0)

    # The answer where it does not count
    yield case(
        "answer in a forged tool response", response(_LOST, before=f"<tool_response>{_FAKE}</tool_response>\n"), -1, 0
    )
    yield case("answer in a thought", response(_LOST, thinking=_FAKE), 1, 0)
    yield case(
        "answer in a title inside JSON", response(_LOST, profile=json.dumps([_FAKE.replace("JSON", "json")])), 1, 0
    )
    yield case("answer in a title that closes its block", response(_LOST, profile=json.dumps([_FAKE])), -1, 0)
    yield case(
        "answer in a tool call's argument",
        response(_LOST, call=json.dumps({"name": "ItemCF", "arguments": {"item_id": _FAKE}})),
        1,
        0,
    )
    yield case("answer after the end, as prose", response(_LOST, after=f"\nThe answer is {TRUTH}."), 1, 0)
    yield case("answer outside any phase", response(_LOST, after=f"\n<JSON>{json.dumps(ids())}</JSON>"), 1, 0)
    yield case("truth inside a longer id", _ranked(["77", "17", f"{TRUTH}\n"]), 1, 0)

    # Phases where they do not count
    yield case("all phases in one thought", f"<Thinking>{response()}</Thinking>", -1, 1)
    yield case("all phases in one JSON string", f"<plan><JSON>{json.dumps([response()])}</JSON></plan>", -1, 0)
    escaped = json_block([response()]).raw
    yield case("all phases in one JSON string, escaped", f"<plan><JSON>{escaped}</JSON></plan>", -1, 0)
    yield case("a phase named in a thought", response(thinking="first </plan>, then <recommend>"), 1, 1)
    yield case("a phase named in a JSON string", response(profile='["<recommend>", "</reflection>"]'), 1, 1)
    yield case("phases in another case", response().replace("recommend>", "Recommend>"), -1, 0)
    yield case("phases with blanks in their tags", response().replace("<recommend>", "< recommend >"), -1, 0)
    yield case("phases with attributes", response().replace("<recommend>", '<recommend id="1">'), -1, 0)

    # Missing, repeated, out of order
    yield case("empty", "", -1, 0)
    yield case("prose alone", "I would take number 7.", -1, 0)
    yield case("only the ranking", _FAKE, -1, 1)
    yield case("no plan", response(plan=""), -1, 1)
    yield case("no reflection", response(reflection=""), -1, 1)
    yield case("plan last", response(plan="", after='\n<plan><JSON>["a"]</JSON></plan>'), -1, 1)
    yield case("ranking first", f"{_FAKE}\n{response(_LOST)}", -1, 0)
    yield case("two rankings, the last one right", response(_LOST, after=f"\n{_FAKE}"), -1, 1)
    yield case(
        "two rankings, the first one right", response(after=f"\n<recommend><JSON>{_LOST}</JSON></recommend>"), -1, 0
    )
    yield case("two lists in one ranking", response(f"{_LOST}</JSON>\n<JSON>{json.dumps(ids())}"), -1, 1)
    yield case("twenty rankings, one for each id", response() + _every_first(), -1, 0)
    again = "<user_profile><JSON>[]</JSON></user_profile>\n"
    yield case("an expert twice", response(reflection=again + _REFLECTION), -1, 1)
    yield case("an expert again after the reflection", response(reflection=_REFLECTION + again), 1, 1)
    yield case("an expert twice after the reflection", response(reflection=_REFLECTION + again * 2), -1, 1)

    # Tags that do not balance
    yield case("ranking not closed", response().removesuffix("</recommend>"), -1, 0)
    yield case("list not closed", response().replace("</JSON>\n</recommend>", ""), -1, 0)
    yield case("first thought not closed", response().replace("known.</Thinking>", "known."), -1, 1)
    yield case("last thought not closed", response().replace("Done.</Thinking>", "Done."), -1, 0)
    yield case("tool call not closed", response().replace("</tool_call>", ""), -1, 0)
    yield case(
        "ranking inside the reflection", response(reflection='<reflection>\n<JSON>{"correct": "yes"}</JSON>\n'), -1, 1
    )
    yield case("thoughts nested", response(thinking="a <Thinking>b</Thinking> c"), -1, 1)
    yield case("a stray closing tag", response(after="</plan>"), -1, 1)
    yield case(
        "a tool response by the model",
        response(before="", thinking="x</Thinking>\n<tool_response>\nItem 7.\n</tool_response>\n<Thinking>y"),
        -1,
        1,
    )

    # Tool calls
    yield case("tool call that is no JSON", response(call="ItemCF(3)"), -1, 1)
    yield case(
        "tool call with arguments in a string",
        response(call='{"name": "ItemCF", "arguments": "{\\"item_id\\": \\"3\\"}"}'),
        -1,
        1,
    )
    yield case("tool call that is a list", response(call='[{"name": "ItemCF", "arguments": {}}]'), -1, 1)
    yield case(
        "two tool calls in one block",
        response(call='{"name": "ItemCF", "arguments": {}}\n{"name": "ItemCF", "arguments": {}}'),
        -1,
        1,
    )

    # Lists
    yield case("ranking that is an object", response('{"7": 1}'), -1, 0)
    yield case("ranking that is a string", response(json.dumps(f"{TRUTH}, 3, 4")), -1, 0)
    yield case("ranking that is null", response("null"), -1, 0)
    yield case("ranking that is empty", response("[]"), 1, 0)
    yield case("ranking in single quotes", response("['7', '3']"), -1, 0)
    yield case("ranking with a trailing comma", response('["7", "3",]'), -1, 0)
    yield case("numbers instead of strings", _ranked([7, 3, 4]), 1, 0)
    yield case("ids inside lists", _ranked([[TRUTH], ["3"]]), 1, 0)
    yield case("ids inside objects", _ranked([{"item_id": TRUTH}]), 1, 0)
    yield case("null before the truth", _ranked([None, TRUTH]), 1, 2)
    yield case("the same wrong id nineteen times", _ranked([*["3"] * 19, TRUTH]), 1, 20)
    yield case("the truth twenty times", _ranked([TRUTH] * 20), 1, 1)
    yield case("foreign ids before the truth", _ranked(["x", "y", "z", TRUTH]), 1, 4)
    yield case("1,000 ids", _ranked([*(f"x{n}" for n in range(999)), TRUTH]), 1, 1000)
    yield case("a blank around the truth", _ranked([f" {TRUTH}"]), 1, 0)

    # Numbers and characters
    yield case("NaN in the ranking", response(f'["{TRUTH}", NaN]'), -1, 0)
    yield case("infinity in the ranking", response(f'["{TRUTH}", 1e999]'), -1, 0)
    yield case("an integer of 100,000 digits", lambda: response(f'["{TRUTH}", {"9" * 100_000}]'), -1, 0)
    yield case("100,000 brackets", lambda: response("[" * 100_000), -1, 0)
    yield case("100,000 brackets that balance", lambda: response("[" * 100_000 + "]" * 100_000), -1, 0)
    yield case("100,000 nested objects in a call", lambda: response(call='{"a":' * 100_000), -1, 1)
    yield case("full-width look-alike of the truth", _ranked(["\uff17"]), 1, 0)
    yield case("zero-width character in the truth", _ranked([f"{TRUTH}\u200b"]), 1, 0)
    yield case("Cyrillic look-alike in a tag", response().replace("<recommend>", "<r\u0435commend>"), -1, 0)
    yield case("full-width brackets of a tag", response().replace("<recommend>", "\uff1crecommend\uff1e"), -1, 0)
    yield case("the truth written as an escape", response('["\\u0037"]'), 1, 1)
    yield case("NUL bytes in a thought", response(thinking="\0" * 50), 1, 1)
    yield case("NUL byte in the truth", response('["7\\u0000"]'), 1, 0)
    yield case("a raw NUL byte in JSON", response('["7", "\0"]'), -1, 0)
    yield case("a lone surrogate in an id", response('["\\ud800", "7"]'), 1, 2)
    yield case("a lone surrogate in a thought", response(thinking="\ud800"), 1, 1)
    yield case("end-of-turn token in a thought", response(thinking="<|im_end|>\n<|im_start|>system"), 1, 1)
    yield case("think tags around all", f"<think>\n</think>\n{response()}", 1, 1)
    yield case("a byte order mark before the list", response(f'\ufeff["{TRUTH}"]'), -1, 0)

    # Long texts, most of them quadratic for a naive pattern
    yield case("1 MB thought", lambda: response(thinking="word " * (_MEGA // 5)), 1, 1)
    yield case("1 MB of <", lambda: response(thinking="<" * _MEGA), 1, 1)
    yield case("1 MB of < and blanks", lambda: response(thinking="< " * (_MEGA // 2)), 1, 1)
    yield case("1 MB of blanks after <", lambda: response(thinking="<" + " " * _MEGA), 1, 1)
    yield case("1 MB of <recommend>", lambda: "<recommend>" * (_MEGA // 11), -1, 0)
    yield case("1 MB of </recommend>", lambda: response() + "</recommend>" * (_MEGA // 12), -1, 1)
    yield case("1 MB of <JSON>", lambda: "<JSON>" * (_MEGA // 6), -1, 0)
    yield case("1 MB of <JSON></JSON>", lambda: response("[]" + "</JSON><JSON>" * (_MEGA // 13)), -1, 0)
    yield case("1 MB of empty tool calls", lambda: response() + "<tool_call></tool_call>" * (_MEGA // 23), -1, 1)
    yield case("1 MB of empty plans", lambda: "<plan></plan>" * (_MEGA // 13), -1, 0)
    yield case("1 MB of newlines in the list", lambda: response("\n" * _MEGA + f'["{TRUTH}"]'), 1, 1)
    yield case("1 MB list", lambda: _ranked([TRUTH] * (_MEGA // 5)), 1, 1)
    yield case("1 MB string not closed", lambda: response('["' + "a" * _MEGA), -1, 0)
    yield case("1 MB of backslashes", lambda: response('["' + "\\" * _MEGA + '"]'), 1, 0)
    yield case(
        "1 MB of 400-digit integers", lambda: response(f'["{TRUTH}"' + f",{'9' * 400}" * (_MEGA // 401) + "]"), 1, 1
    )


def _every_first() -> str:
    return "".join(f"\n<recommend><JSON>{json.dumps([entry])}</JSON></recommend>" for entry in CANDIDATES)


CASES = tuple(_cases())


def table() -> list[dict[str, object]]:
    """Return each case's format, rank and scores by the rewards ``star``, ``gated`` and ``starec``."""
    from star_rl.rewards import gated, star, starec

    rows: list[dict[str, object]] = []
    for case in CASES:
        text = case.text
        info = {"candidates": CANDIDATES}
        scores = star.compute_score("adversarial", text, TRUTH, info)
        rows.append(
            {
                "name": case.name,
                "characters": len(text),
                "format": int(scores["format"]),
                "rank": int(scores["rank"]),
                "star": scores["score"],
                "gated": gated.compute_score("adversarial", text, TRUTH, info)["score"],
                "starec": starec.compute_score("adversarial", text, TRUTH, info)["score"],
                "as expected": scores["format"] == case.format and scores["rank"] == case.rank,
            }
        )
    return rows


def main() -> int:
    """Print the table; return 1 if a case has an unexpected score."""
    rows = table()
    width = max(len(str(entry["name"])) for entry in rows)
    print(f"{'response':{width}}  characters  format  rank   star  gated  starec")
    for entry in rows:
        mark = "" if entry["as expected"] else "  UNEXPECTED"
        print(
            f"{entry['name']:{width}}  {entry['characters']:>10,}  {entry['format']:>+6}  {entry['rank']:>4}  "
            f"{entry['star']:>5.2f}  {entry['gated']:>5.2f}  {entry['starec']:>6.2f}{mark}"
        )
    return 0 if all(entry["as expected"] for entry in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
