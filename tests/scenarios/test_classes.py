import numpy as np
import pyarrow as pa
import pytest

from star_rl.records import INTERACTIONS
from star_rl.scenarios import Thresholds, classify
from star_rl.scenarios.tables import Indexed

DAY = 86_400


def data(days_of_user, fans):
    rows = [("u", f"h{k}", day * DAY) for k, day in enumerate(days_of_user)]
    rows += [(f"f{k}", "truth", 1) for k in range(fans)]
    return Indexed.of(
        pa.Table.from_pylist(
            [{"user_id": u, "item_id": i, "timestamp": t, "rating": None, "text": None} for u, i, t in rows],
            INTERACTIONS,
        )
    )


@pytest.mark.parametrize(
    "days, fans, expected",
    [
        ([990, 991, 992, 993, 994], 20, "user_cold_start"),
        ([100, 110, 120, 130, 140, 150], 5, "item_cold_start"),
        ([100, 994, 995, 996, 997, 998], 6, "short_term"),
        ([100, 920, 940, 960, 980, 999], 6, "long_term"),
        ([100, 110, 120, 130, 140, 999], 6, "classic"),
    ],
)
def test_the_first_rule_that_holds_counts(days, fans, expected):
    world = data(days, fans)
    ask = (np.array([world.user_ids.index("u")]), np.array([world.item_ids.index("truth")]), np.array([1000 * DAY]))
    assert classify(world, *ask, Thresholds()) == [expected]
    order_only = classify(world, *ask, Thresholds(), seconds=False)
    assert order_only == [expected if "cold" in expected else "classic"]


def by_the_book(world, user, item, cut, rules, seconds):
    """The rules as they are written down, one task at a time."""
    stamps = np.sort(world.stamp[world.user == user])
    before = int((stamps < cut).sum())
    of_item = world.item == item
    support = (of_item & (world.stamp < cut)).sum() if seconds else (of_item & (world.user != user)).sum()
    recent = [
        int(((stamps < cut) & (stamps >= cut - days * DAY)).sum()) for days in (rules.short_days, rules.long_days)
    ]
    if before <= rules.cold_user:
        return "user_cold_start"
    if support <= rules.cold_item:
        return "item_cold_start"
    if seconds and recent[0] >= rules.active:
        return "short_term"
    if seconds and recent[1] >= rules.active:
        return "long_term"
    return "classic"


@pytest.mark.parametrize("seconds", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_all_tasks_at_once_are_judged_as_one_by_one(seed, seconds):
    rng = np.random.default_rng(seed)
    rows = [
        {"user_id": f"u{u}", "item_id": f"i{i}", "timestamp": int(t), "rating": None, "text": None}
        for u, i, t in zip(*(rng.integers(0, top, 400) for top in (25, 60, 60 * DAY)), strict=True)
    ]
    world = Indexed.of(pa.Table.from_pylist(rows, INTERACTIONS))
    user, item = rng.integers(0, len(world.user_ids), 300), rng.integers(0, len(world.item_ids), 300)
    cut = rng.integers(-DAY, 70 * DAY, 300)
    rules = Thresholds(4, 3, 2, 1.3, 7.7)
    found = classify(world, user, item, cut, rules, seconds).tolist()
    asked = zip(user, item, cut, strict=True)
    assert found == [by_the_book(world, *task, rules, seconds) for task in asked]
    assert len(set(found)) == (5 if seconds else 3), set(found)
