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
