"""Tasks drawn evenly over sources x scenarios, and scenarios of equal shares."""

from collections import Counter

import numpy as np
import pytest

from star_rl.errors import StarError
from star_rl.records import Task
from star_rl.scenarios import SplitOptions, split
from star_rl.scenarios.balance import balanced, shortfall, shortfall_words, task_type
from tests.scenarios.test_domains import tables


def tasks(**counts):
    names = [name for name, count in counts.items() for _ in range(count)]
    return [Task(f"t{k:04}", *name.split("_", 1), f"u{k}", ("a",), "a", 1) for k, name in enumerate(names)]


def test_a_limit_is_shared_out_and_the_order_stays():
    given = tasks(amazon_classic=200, amazon_long_term=30, yelp_classic=5)
    taken = balanced(given, 60, 3)
    counts = Counter(map(task_type, taken))
    assert counts["yelp/classic"] == 5 and abs(counts["amazon/classic"] - counts["amazon/long_term"]) <= 1
    assert taken == sorted(taken, key=lambda task: task.task_id) == balanced(given, 60, 3) != balanced(given, 60, 4)
    assert balanced(given, None, 3) == balanced(given, 1000, 3) == given


def test_what_is_missing_is_named():
    taken = tasks(amazon_classic=50, yelp_classic=4)
    assert shortfall(taken) == {"yelp/classic": 23}
    assert shortfall(taken, tasks(yelp_long_term=1)) == {"yelp/classic": 14, "yelp/long_term": 18}
    assert shortfall_words(shortfall(taken)) == "; missing for an even share: yelp/classic 23"
    assert shortfall([]) == {} and shortfall_words({}) == ""


def test_quantiles_leave_no_scenario_empty():
    made = split(tables(), {"min_history": 3, "scenario": "auto", "quantile": 0.2}, 1)
    counts = Counter(task.scenario for task in made.train)
    assert len(counts) == 5 and max(counts.values()) - min(counts.values()) <= 4
    own = {name: [] for name in counts}
    for task in made.train:
        own[task.scenario].append(task.cutoff)
    assert max(own["user_cold_start"]) <= np.median([task.cutoff for task in made.train])


@pytest.mark.parametrize("share", [-0.1, 0.3, True])
def test_a_quantile_out_of_range_is_refused(share):
    with pytest.raises(StarError, match="quantile"):
        SplitOptions(quantile=share)
