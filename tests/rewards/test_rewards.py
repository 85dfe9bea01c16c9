"""Each reward against its formula, the same keys every time, and texts made to deceive."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_rl.evaluation.metrics import is_valid
from star_rl.rewards import format as formatting
from star_rl.rewards import gated, margin, ndcg, outcome, overlong, reciprocal_rank, star, starec, tool_cost
from star_rl.rewards.keys import KEYS, read
from star_rl.rewards.loading import NAMES, load
from tests.rewards import adversarial
from tests.rewards.adversarial import CANDIDATES, CASES, TRUTH, ids, response

INFO = {"candidates": list(CANDIDATES)}


def score(module: object, text: str, **options: object) -> float:
    return module.compute_score("test", text, TRUTH, INFO, **options)["score"]  # type: ignore[attr-defined]


def ranked(rank: int) -> str:
    return response(json.dumps(ids(rank)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_texts_made_to_deceive(case: adversarial.DeceptiveCase) -> None:
    scores = star.compute_score("test", case.text, TRUTH, INFO)
    assert (scores["format"], scores["rank"]) == (case.format, case.rank)
    tier = {1: 1.0, 2: 2 / 3, 3: 2 / 3, 4: 1 / 3, 5: 1 / 3}.get(case.rank, 0.0)
    assert scores["score"] == pytest.approx(case.format + tier)
    assert scores["outcome"] == pytest.approx(tier)


def test_names_of_the_cases_are_distinct() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.name.startswith("1 MB")], ids=lambda case: case.name
)
def test_every_reward_returns_the_keys_and_finite_floats(name: str, case: adversarial.DeceptiveCase) -> None:
    for info in (None, {}, INFO):
        scores = load(name)("test", case.text, TRUTH, info)
        assert list(scores) == list(KEYS)
        assert "reward" not in scores
        assert all(type(value) is float and math.isfinite(value) for value in scores.values())


@pytest.mark.parametrize(
    ("rank", "tier"), [(1, 1.0), (2, 2 / 3), (3, 2 / 3), (4, 1 / 3), (5, 1 / 3), (6, 0.0), (20, 0.0), (0, 0.0)]
)
def test_the_papers_tiers(rank: int, tier: float) -> None:
    assert score(outcome, ranked(rank)) == pytest.approx(tier)
    assert score(star, ranked(rank)) == pytest.approx(1 + tier)
    assert score(gated, ranked(rank)) == pytest.approx(tier)
    assert score(star, ranked(rank) + "</plan>") == pytest.approx(-1 + tier)
    assert score(gated, ranked(rank) + "</plan>") == 0.0


def test_the_tiers_are_hr_avg_of_the_single_sample() -> None:
    for rank in range(21):
        scores = star.compute_score("test", ranked(rank), TRUTH, INFO)
        assert scores["outcome"] == scores["hr_avg"] == (scores["acc"] + scores["hr3"] + scores["hr5"]) / 3


def test_the_tiers_of_starec() -> None:
    tiers = [-1.0, 1.0, *[0.5] * 4, *[0.0] * 5, *[-0.5] * 10]
    assert [score(starec, ranked(rank)) for rank in range(21)] == tiers
    assert score(starec, ranked(1) + "</plan>") == score(starec, "") == -1.0
    beyond = json.dumps([*(f"x{number}" for number in range(20)), TRUTH])
    assert score(starec, response(beyond)) == -1.0


def test_starec_scores_the_ranking_after_the_reflection() -> None:
    again = f"<recommend><JSON>{json.dumps([CANDIDATES[0], TRUTH])}</JSON></recommend>"
    for answers, reward in (([ranked(20), again], 0.5), ([ranked(1), again], 0.5), ([ranked(1), "no list"], -1.0)):
        info = {**INFO, "answers": answers}
        assert starec.compute_score("test", "\n".join(answers), TRUTH, info)["score"] == reward


def test_format_is_plus_or_minus_one() -> None:
    assert score(formatting, ranked(0)) == 1.0
    assert score(formatting, "") == -1.0


@pytest.mark.parametrize(("rank", "gain"), [(1, 1.0), (2, 0.5), (4, 0.25), (20, 0.05), (0, 0.0)])
def test_reciprocal_rank(rank: int, gain: float) -> None:
    assert score(reciprocal_rank, ranked(rank)) == pytest.approx(1 + gain)


def test_ndcg() -> None:
    assert score(ndcg, ranked(1)) == pytest.approx(2.0)
    assert score(ndcg, ranked(3)) == pytest.approx(1.5)
    assert score(ndcg, ranked(10)) == pytest.approx(1 + 1 / math.log2(11))
    assert score(ndcg, ranked(11)) == 1.0
    assert score(ndcg, ranked(11), k=20) > 1.0
    assert score(ndcg, ranked(3), k=2) == 1.0


def test_margin_falls_evenly() -> None:
    values = [score(margin, ranked(rank)) - 1 for rank in range(1, 21)]
    assert values == pytest.approx([1 - 2 * (rank - 1) / 19 for rank in range(1, 21)])
    assert score(margin, ranked(0)) == 0.0


def test_margin_counts_distinct_candidates_alone() -> None:
    assert score(margin, response(json.dumps(["x", "x", "y", TRUTH]))) == 2.0
    assert score(margin, response(json.dumps(["3", "3", "3", TRUTH]))) == pytest.approx(1 + 17 / 19)
    alone = margin.compute_score("test", response(json.dumps([TRUTH])), TRUTH, {"candidates": [TRUTH]})
    assert alone["score"] == 2.0


def test_margin_without_candidates_stays_in_range() -> None:
    text = response(json.dumps([*(f"x{number}" for number in range(500)), TRUTH]))
    assert margin.compute_score("test", text, TRUTH)["score"] == 0.0


def test_tool_cost() -> None:
    assert score(tool_cost, ranked(1)) == pytest.approx(2 - 0.02)
    assert score(tool_cost, ranked(1), cost=0.5) == pytest.approx(1.5)
    assert score(tool_cost, ranked(1), cost=0) == 2.0
    bad = response(call="no json")
    assert score(tool_cost, bad, cost=0.1, invalid_cost=0.4) == pytest.approx(-0.4)
    many = ranked(1) + '\n<tool_call>{"name": "a", "arguments": {}}</tool_call>' * 100
    assert score(tool_cost, many, cost=0.1, cap=5) == pytest.approx(1.5)


def test_gated_bonus_for_a_valid_list() -> None:
    assert score(gated, ranked(1), valid_bonus=0.5) == 1.5
    assert score(gated, response(json.dumps([TRUTH, TRUTH])), valid_bonus=0.5) == 1.0
    assert score(gated, ranked(1) + "</plan>", valid_bonus=0.5) == 0.0


def test_an_ablated_student_is_not_asked_for_what_it_lacks() -> None:
    text = response(reflection="")
    assert star.compute_score("test", text, TRUTH, INFO)["format"] == -1.0
    for required in (["plan", "recommend"], np.array(["plan", "recommend"], dtype=object)):
        assert star.compute_score("test", text, TRUTH, {**INFO, "required": required})["format"] == 1.0
    assert star.compute_score("test", text, TRUTH, {**INFO, "required": None})["format"] == -1.0


def test_candidates_may_be_an_array() -> None:
    info = {"candidates": np.array(CANDIDATES, dtype=object)}
    assert star.compute_score("test", ranked(3), TRUTH, info)["valid_list"] == 1.0
    assert margin.compute_score("test", ranked(3), TRUTH, info)["score"] == pytest.approx(score(margin, ranked(3)))


@pytest.mark.parametrize(
    ("listed", "candidates", "valid"),
    [
        (["1", "2"], ["2", "1"], 1.0),
        (["1", "2"], None, 1.0),
        (["1", "1"], None, 0.0),
        (["1"], ["1", "2"], 0.0),
        (["1", "2", "3"], ["1", "2"], 0.0),
        (["1", "2"], ["1", "2", "2"], 1.0),
        (["1", "2", "2"], ["1", "2", "2"], 1.0),
        (["1", "1", "2"], ["1", "2", "2"], 0.0),
        (["1", None], ["1", "2"], 0.0),
        ([], None, 0.0),
    ],
)
def test_valid_list(listed: list[str], candidates: list[str] | None, valid: float) -> None:
    info = {} if candidates is None else {"candidates": candidates}
    assert read(response(json.dumps(listed)), "1", info).valid_list == bool(valid)


@pytest.mark.parametrize(
    ("listed", "top", "valid"),
    [
        (["2", "1"], 2, True),
        (["2"], 2, False),
        (["3", "2", "1"], 2, True),
        (["2", "2"], 2, False),
        (["2", "9"], 2, False),
        (["3", "2", "1"], 5, True),
        (["2", "1"], None, False),
    ],
)
def test_a_valid_list_is_as_long_as_was_asked_for(listed: list[str], top: int | None, valid: bool) -> None:
    info = {"candidates": ["1", "2", "3"], "top": top}
    assert read(response(json.dumps(listed)), "1", info).valid_list == valid
    assert is_valid(listed, info["candidates"], top) == valid


def test_calls_are_counted() -> None:
    call = '<tool_call>\n{"name": "ItemCF", "arguments": {"item_id": "3"}}\n</tool_call>\n'
    text = response().replace("<tool_call>", f"{call}<tool_call>no</tool_call>\n<tool_call>", 1)
    scores = star.compute_score("test", text, TRUTH, {"rollout": {"unknown_tools": 2.0, "bad_arguments": None}})
    assert (scores["tool_calls"], scores["invalid_calls"], scores["repeated_calls"]) == (3.0, 3.0, 1.0)


def test_calls_hidden_in_a_thought_left_open_over_turns_are_counted() -> None:
    """The loop answers them turn by turn; in the whole text they are words of a thought."""
    call = '<tool_call>\n{"name": "ItemCF", "arguments": {"item_id": "3"}}\n</tool_call>\n'
    text = response(thinking=f"well\n{call * 3}so")
    made = {"tool_calls": 2.0, "refused_calls": 1.0, "unparsable_calls": 1.0, "repeated_calls": 2.0}
    seen, told = (tool_cost.compute_score("test", text, TRUTH, {"rollout": counts}, cost=0.1) for counts in ({}, made))
    assert (seen["tool_calls"], told["tool_calls"]) == (1.0, 4.0)
    assert (told["invalid_calls"], told["repeated_calls"]) == (1.0, 2.0)
    assert told["score"] == pytest.approx(seen["score"] - 0.3)


def test_repeated_phases_are_counted() -> None:
    assert read(response(), TRUTH).repeated_phases == 0
    case = next(case for case in CASES if case.name.startswith("twenty rankings"))
    assert read(case.text, TRUTH).repeated_phases == 20


def test_after_a_user_s_turn_a_ranking_is_a_whole_answer_and_the_last_one_counts() -> None:
    first, again = response(), f"<recommend><JSON>{json.dumps([CANDIDATES[1], TRUTH])}</JSON></recommend>"
    for answers, rank, well_formed in (
        ([first, again], 2, True),
        ([first, again, first], 1, True),
        ([first, "I will not."], 1, False),
        ([first, again.replace("]", "")], 0, False),
        ([again, first], 1, False),
        ([first], 1, True),
    ):
        reading = read("\n".join(answers), TRUTH, {"candidates": CANDIDATES, "answers": answers})
        assert (reading.rank, reading.well_formed) == (rank, well_formed), answers
    assert not read(f"{first}\n{again}", TRUTH).well_formed, "a model that answers twice of its own accord"


def test_tool_output_is_not_read_where_the_loop_hands_over_what_the_model_wrote() -> None:
    from star_rl.trajectory import model_text

    turns = [
        {"role": "assistant", "content": ranked(0).split("</tool_call>")[0] + "</tool_call>"},
        {"role": "tool", "content": f'<recommend><JSON>["{TRUTH}"]</JSON></recommend>'},
        {"role": "assistant", "content": ranked(0).split("</tool_call>")[1].strip()},
    ]
    scores = star.compute_score("test", model_text(turns), TRUTH, INFO)
    assert (scores["score"], scores["rank"]) == (1.0, 0.0)


def test_a_number_as_truth_is_read_as_a_string() -> None:
    assert star.compute_score("test", ranked(1), 7, INFO)["acc"] == 1.0  # type: ignore[arg-type]


@given(st.text(), st.text(min_size=1))
def test_no_text_makes_a_reward_raise(text: str, truth: str) -> None:
    for name in NAMES:
        scores = load(name)("test", text, truth, {})
        assert all(math.isfinite(value) for value in scores.values())


@given(
    st.lists(st.sampled_from(["<plan>", "</plan>", "<JSON>", "</JSON>", "<recommend>", "</recommend>", '["7"]', "7"]))
)
def test_scores_stay_in_their_range(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert -1 <= score(star, text) <= 2
    assert 0 <= score(gated, text) <= 1
    assert -2 <= score(margin, text) <= 2
    assert -1 <= score(starec, text) <= 1


def test_a_reward_is_pure() -> None:
    info = {"candidates": list(CANDIDATES), "rollout": {}}
    before = json.dumps(info)
    assert star.compute_score("a", ranked(2), TRUTH, info) == star.compute_score("b", ranked(2), TRUTH, info)
    assert json.dumps(info) == before


def test_length_costs_as_much_as_the_loop_counts_whatever_the_text_says() -> None:
    for tokens, cost in ((0, 0.0), (150, 0.0), (175, 0.5), (200, 1.0), (10**6, 1.0)):
        info = {**INFO, "rollout": {"response_tokens": float(tokens)}}
        for case in CASES:
            if not case.name.startswith("1 MB"):
                plain = star.compute_score("test", case.text, TRUTH, info)
                scores = overlong.compute_score("test", case.text, TRUTH, info, longest=200, buffer=50)
                assert scores == {**plain, "score": pytest.approx(plain["score"] - cost)}
    assert overlong.compute_score("test", ranked(1), TRUTH, INFO)["score"] == 2.0, "no counts"


def test_the_table_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert adversarial.main() == 0
    out = capsys.readouterr().out
    assert out.count("\n") == len(CASES) + 1 and "UNEXPECTED" not in out


def test_rewards_import_no_engine() -> None:
    code = (
        "import sys, star_rl.rewards.loading as l\n"
        "[l.check(l.load(n), n) for n in l.NAMES]\n"
        "print([m for m in ('torch', 'verl', 'ray', 'vllm', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
