"""Tables of several domains: a task's source and its negatives are of the domain of its ground truth."""

import json

import numpy as np
import pyarrow as pa
import pytest

from star_rl.records import INTERACTIONS, ITEMS, USERS, Task, tasks_to
from star_rl.scenarios import Tables, split
from star_rl.scenarios.negatives import UntouchedOfDomain

DOMAINS = ("amazon", "goodreads", "yelp")


def tables(own=(), options=None):
    """150 items, a third of each domain; 45 users, each with 15 items of one domain or, every third, of all."""
    rng = np.random.default_rng(4)
    rows = []
    for user in range(45):
        pool = range(150) if user % 3 == 2 else range(user % 2 * 50, user % 2 * 50 + 50)
        rows += [(f"u{user}", f"i{k}", 10 * step, 4.0, None) for step, k in enumerate(rng.permutation(pool)[:15])]
    items = [f"i{k}" for k in range(150)]
    about = [json.dumps({"description": '{"source": "x"}', "source": DOMAINS[k // 50]}) for k in range(150)]
    users = sorted({row[0] for row in rows})
    return Tables(
        pa.table([list(column) for column in zip(*rows, strict=True)], schema=INTERACTIONS),
        pa.table([items, items, [["c"]] * 150, about], schema=ITEMS),
        pa.table([users, ["{}"] * len(users)], schema=USERS),
        tasks_to(own) if own else None,
        {"source": "agentrecbench", "time": "seconds", "options": {"domain": "all"} if options is None else options},
    )


def domain(item):
    return DOMAINS[int(item[1:]) // 50]


def test_source_and_candidates_are_of_the_ground_truths_domain():
    made = split(tables(), {"min_history": 3}, 1)
    assert made.train and made.valid and made.test
    assert {task.source for task in made.tasks} >= {"amazon", "goodreads"}
    for task in made.tasks:
        assert {domain(item) for item in task.candidates} == {domain(task.ground_truth)} == {task.source}
        assert len(set(task.candidates)) == 20


@pytest.mark.parametrize("said", ["agentsociety", "amazon"])
def test_own_tasks_take_the_source_of_their_ground_truth(said):
    own = [Task("own-1", said, "classic", "u2", tuple(f"i{k}" for k in range(110, 130)), "i111", 100)]
    made = split(tables(own), {"test": "tasks", "min_history": 3}, 1)
    assert [task.source for task in made.test] == ["yelp"]


def test_tables_of_one_domain_keep_the_name_of_their_source():
    made = split(tables(options={}), {"min_history": 3}, 1)
    assert {task.source for task in made.tasks} == {"agentrecbench"}


def test_a_limit_is_shared_out_over_sources_and_scenarios():
    made = split(tables(), {"min_history": 3, "max_train": 12}, 1)
    counts = [sum(task.source == name for task in made.train) for name in DOMAINS]
    assert sum(counts) == 12 and max(counts) - min(counts) <= 1


def test_a_domain_that_is_too_small_for_its_user_is_counted():
    pairs = np.arange(12)  # user 0 has touched items 0 .. 11 of 40
    untouched = UntouchedOfDomain(pairs, 1, np.repeat([0, 1], [15, 25]))
    users, truths = np.zeros(2, np.int64), np.array([3, 20])
    assert untouched.count(users, truths).tolist() == [3, 25]
    drawn = untouched.draw(users[1:], truths[1:], 19, np.random.default_rng(0))
    assert drawn.shape == (1, 19) and drawn.min() >= 15 and len(set(drawn[0].tolist())) == 19
