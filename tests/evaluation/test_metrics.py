"""Metrics against the official evaluator and against what they mean; intervals against what is known of them."""

from __future__ import annotations

import importlib.util
import math
import os
import random
import runpy
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_rl.errors import StarError
from star_rl.evaluation.metrics import (
    ABSENT,
    FAILED,
    bootstrap,
    hits,
    hr_avg,
    is_valid,
    ndcg,
    official,
    paired,
    rank_of,
    ranks,
    reciprocal,
)

IDS = [str(number) for number in range(20)]


def official_package() -> Path:
    """Where the package lies: among this interpreter's, or in the virtual environment that `make official` keeps."""
    found = importlib.util.find_spec("websocietysimulator")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent
    python = Path(os.environ.get("STAR_RL_OFFICIAL", Path(__file__).parents[2] / ".bench/official/bin/python"))
    if python.is_file():
        say = "import importlib.util as u; print(u.find_spec('websocietysimulator').origin)"
        return Path(
            subprocess.run([python, "-c", say], capture_output=True, text=True, check=True).stdout.strip()
        ).parent
    pytest.skip(f"no websocietysimulator 1.0.0a30 here nor at {python} (make official installs it)")


def official_evaluator() -> Any:
    """``RecommendationEvaluator`` of the installed package. Its module imports sentiment models at the top, which hit
    rates do not use: where those are absent, empty modules stand in for them."""
    path = official_package() / "tools" / "evaluation_tool.py"
    needed = {
        "nltk": {"data": types.SimpleNamespace(find=lambda name: name)},
        "nltk.sentiment": {"SentimentIntensityAnalyzer": object},
        "transformers": {"pipeline": object},
        "sentence_transformers": {"SentenceTransformer": object},
        "scipy": {},
        "scipy.spatial": {"distance": object},
        "torch": {},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, members in needed.items():
            module = types.ModuleType(name)
            vars(module).update(members)
            patch.setitem(sys.modules, name, module)
        return runpy.run_path(str(path), run_name="official_evaluation_tool")["RecommendationEvaluator"]()


def nasty(source: random.Random) -> list[Any]:
    """A list as a model may leave it: short, long, with duplicates, foreign ids, and entries that are no strings."""
    pool: list[Any] = [*IDS, "x", "", " 3", "\uff13", "3\n", "33", 3, 3.0, None, True, ["3"], {"3": 1}, ("3",), b"3"]
    return source.choices(pool, k=source.choice((0, 1, 2, 3, 4, 5, 6, 20, 40)))


def test_agrees_with_the_official_evaluator() -> None:
    evaluator = official_evaluator()
    source = random.Random(0)
    for round_number in range(300):
        count = source.randrange(1, 60)
        truths = source.choices([*IDS, "x", " 3", "33"], k=count)
        lists = [source.sample(IDS, 20) if source.random() < 0.5 else nasty(source) for _ in range(count)]
        theirs = evaluator.calculate_hr_at_n(truths, lists, number_sim=round_number % (count + 1))
        ours = official(ranks(lists, truths))
        assert ours["hr1"] == theirs.top_1_hit_rate
        assert ours["hr3"] == theirs.top_3_hit_rate
        assert ours["hr5"] == theirs.top_5_hit_rate
        assert ours["hr_avg"] == theirs.average_hit_rate
        # a failed task reaches the official evaluator as [''], here as None
        failed = [None if source.random() < 0.2 else entry for entry in lists]
        theirs = evaluator.calculate_hr_at_n(
            truths, [[""] if entry is None else entry for entry in failed], number_sim=0
        )
        assert official(ranks(failed, truths))["hr_avg"] == theirs.average_hit_rate


@given(st.lists(st.one_of(st.sampled_from(IDS), st.none(), st.integers(), st.text(max_size=2)), max_size=30))
def test_a_hit_is_the_truth_among_the_first(prediction: list[Any]) -> None:
    found = ranks([prediction], ["3"])
    for k in (1, 3, 5, 10):
        assert hits(found, k)[0] == float("3" in prediction[:k])


def test_an_empty_set_scores_as_the_official_code_has_it() -> None:
    assert official(ranks([], [])) == {"hr1": 0.0, "hr3": 0.0, "hr5": 0.0, "hr_avg": 0.0}


@pytest.mark.parametrize("prediction", [None, "3", '["3"]', {"3": 1}, 3, {"3"}, iter(["3"]), Exception("timeout")])
def test_what_is_no_list_is_a_failure(prediction: object) -> None:
    assert rank_of(prediction, "3") == FAILED
    assert official(ranks([prediction, ["3"]], ["3", "3"]))["hr1"] == 0.5


@pytest.mark.parametrize(
    ("prediction", "rank"),
    [
        (["3"], 1),
        (("1", "3"), 2),
        (["1", "3", "3"], 2),
        ([3], ABSENT),
        (["33", "3 "], ABSENT),
        ([], ABSENT),
        ([["3"]], ABSENT),
    ],
)
def test_ranks(prediction: list[Any], rank: int) -> None:
    assert rank_of(prediction, "3") == rank


def test_arrays_inside_a_list_match_nothing() -> None:
    assert rank_of([np.array(["1", "2"])], "3") == ABSENT


@pytest.mark.parametrize("truth", ["", None, 3, ["3", "4"]])
def test_a_truth_that_is_no_id_is_refused(truth: Any) -> None:
    with pytest.raises(StarError, match="ground truth"):
        ranks([["3"]], [truth])


def test_another_number_of_predictions_is_refused() -> None:
    with pytest.raises(StarError, match="2 predictions for 1 tasks"):
        ranks([["3"], ["4"]], ["3"])


def test_gains() -> None:
    found = np.array([1, 2, 3, 4, 5, 6, 20, ABSENT, FAILED])
    assert hr_avg(found).tolist() == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0])
    assert ndcg(found, 5).tolist() == pytest.approx(
        [1, 1 / math.log2(3), 0.5, 1 / math.log2(5), 1 / math.log2(6), 0, 0, 0, 0]
    )
    assert reciprocal(found).tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 20, 0, 0])


def test_the_reward_and_the_judge_agree() -> None:
    from star_rl.rewards.keys import hits as of_reward

    for rank in range(21):
        assert hr_avg(np.array([rank]))[0] == sum(of_reward(rank)) / 3


@pytest.mark.parametrize(
    ("prediction", "candidates", "valid"),
    [
        (IDS, IDS, True),
        (IDS[::-1], IDS, True),
        (IDS[:19], IDS, False),
        ([*IDS, "x"], IDS, False),
        ([*IDS[:19], IDS[0]], IDS, False),
        (IDS[:19], [*IDS[:19], IDS[0]], True),
        ([*IDS[:19], IDS[0]], [*IDS[:19], IDS[0]], True),
        ([*IDS[:19], IDS[1]], [*IDS[:19], IDS[0]], False),
        ([*IDS[:19], 19], IDS, False),
        ("".join(IDS), IDS, False),
        (None, IDS, False),
        ([], IDS, False),
    ],
)
def test_validity(prediction: Any, candidates: list[str], valid: bool) -> None:
    assert is_valid(prediction, candidates) is valid


def test_a_random_ranking_scores_fifteen_percent() -> None:
    found = np.random.default_rng(0).integers(1, 21, 1_000_000)
    assert official(found)["hr_avg"] == pytest.approx(0.15, abs=0.001)


def test_figures_of_a_method_have_intervals_of_the_right_width() -> None:
    found = np.array([1] * 50 + [4] * 30 + [ABSENT] * 15 + [FAILED] * 5)
    assert list(official(found).values()) == pytest.approx([0.5, 0.5, 0.8, 0.6])
    assert reciprocal(found).mean() == pytest.approx(0.5 + 0.3 / 4)
    rows = np.stack([*(hits(found, k) for k in (1, 3, 5)), hr_avg(found)])
    first, again, other = bootstrap(rows), bootstrap(rows), bootstrap(rows, seed=1)
    assert all(one.low < one.mean < one.high for one in first)
    assert first[0].high - first[0].low == pytest.approx(2 * 1.96 * 0.05, rel=0.15)
    assert first == again != other


def test_no_tasks_have_no_mean() -> None:
    for call in (lambda: bootstrap([]), lambda: paired([], [])):
        with pytest.raises(StarError, match="no tasks"):
            call()


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(StarError, match="not finite"):
        bootstrap([1.0, float("nan")])


def test_bootstrap_of_means_has_the_known_width() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, (2, 1500))
    for interval, row in zip(bootstrap(values, 4000), values, strict=True):
        half = 1.96 * row.std() / math.sqrt(1500)
        assert interval.mean == pytest.approx(row.mean())
        assert interval.low == pytest.approx(row.mean() - half, abs=0.15 * half)
        assert interval.high == pytest.approx(row.mean() + half, abs=0.15 * half)


def test_kinds_of_tasks_stand_for_the_tasks() -> None:
    values = np.repeat([0.0, 1 / 3, 1.0], [500, 300, 200])
    (whole,) = bootstrap(values, 20_000)
    (kinds,) = bootstrap([0.0, 1 / 3, 1.0], 20_000, sizes=[500, 300, 200])
    assert kinds.mean == pytest.approx(whole.mean)
    assert (kinds.low, kinds.high) == pytest.approx((whole.low, whole.high), abs=0.003)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        (interval,) = bootstrap(rng.random(200) < 0.4, 500, seed)
        covered += interval.low <= 0.4 <= interval.high
    assert 0.90 <= covered / 300 <= 0.99


def test_paired_differences() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(500)
    better = paired(base + 0.05 + rng.normal(0, 0.01, 500), base)
    assert better.mean == pytest.approx(0.05, abs=0.005) and 0 < better.low < better.high and better.p < 0.001
    worse = paired(base, base + 0.05)
    assert worse.mean == pytest.approx(-0.05) and worse.high < 0
    same = paired(base, base)
    assert (same.mean, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_pairing_sees_what_two_intervals_do_not() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(400) * 10
    first, second = bootstrap([hard, hard + 0.1], 2000)
    assert first.high > second.low
    assert paired(hard + 0.1, hard).low > 0


def test_p_values_are_even_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    values = [paired(rng.random(100), rng.random(100), 400, seed).p for seed in range(200)]
    assert 0.005 <= np.mean(np.array(values) < 0.05) <= 0.12
    assert 0.35 < np.mean(values) < 0.65


def test_other_tasks_cannot_be_paired() -> None:
    with pytest.raises(StarError, match="cannot be paired"):
        paired([1.0, 0.0], [1.0])


def test_tasks_that_are_all_misses_or_all_hits_are_not_certain():
    """Wilson's far end: of n equal tasks, z^2 / (n + z^2)."""
    miss, hit, same = bootstrap([[0.0] * 10, [1.0] * 10, [0.5] * 10], 200)
    assert (miss.mean, miss.low, round(miss.high, 3)) == (0.0, 0.0, 0.278)
    assert (hit.mean, round(hit.low, 3), hit.high) == (1.0, 0.722, 1.0)
    assert same == (0.5, 0.5, 0.5)
    assert bootstrap([[0.0]], 200, sizes=[10])[0] == miss
