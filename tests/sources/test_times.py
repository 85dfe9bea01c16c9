import pyarrow as pa
import pytest

from star_rl.errors import StarError
from star_rl.sources.times import DayOrder, seconds

MOMENT = 1_503_008_128  # 2017-08-17 22:15:28 UTC


@pytest.mark.parametrize(
    "value",
    [
        MOMENT,
        MOMENT * 1000 + 7,
        MOMENT * 1_000_000 + 7,
        float(MOMENT) + 0.5,
        str(MOMENT),
        f"{MOMENT}000",
        f" {MOMENT}.0 ",
        "2017-08-17 22:15:28",
        "2017-08-17T22:15:28Z",
        "2017-08-17T15:15:28-07:00",
        "Thu Aug 17 15:15:28 -0700 2017",
        "Fri Aug 18 03:45:28 +0530 2017",
    ],
)
def test_every_form_gives_the_same_second(value):
    assert seconds(pa.array([value, None])).to_pylist() == [MOMENT, None]


@pytest.mark.parametrize("value", ["2017-08-17", "08 17, 2017", "Aug 17, 2017", "2017/08/17", "20170817T00:00:00"])
def test_days(value):
    assert seconds(pa.array([value])).to_pylist() == [1_502_928_000]


@pytest.mark.parametrize(
    "value", ["", "soon", "2017-13-45", "2017-13-45 10:00:00", "Thu Foo 17 15:15:28 -0700 2017", "1e12x", "NaN"]
)
def test_what_cannot_be_read_is_null(value):
    assert seconds(pa.array([value, "2017-08-17"])).to_pylist() == [None, 1_502_928_000]


def test_forms_may_be_mixed():
    values = ["2017-08-17", str(MOMENT), "Thu Aug 17 15:15:28 -0700 2017", "2017-08-17T22:15:28Z", None, "x"]
    assert seconds(pa.array(values)).to_pylist() == [1_502_928_000, MOMENT, MOMENT, MOMENT, None, None]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, -1e300])
def test_numbers_that_are_none(value):
    assert seconds(pa.array([value])).to_pylist() == [None]


def test_arrow_types():
    stamp = pa.array([MOMENT * 1000], pa.timestamp("ms"))
    assert seconds(stamp).to_pylist() == [MOMENT]
    assert seconds(pa.chunked_array([stamp])).to_pylist() == [MOMENT]
    assert seconds(pa.array([1], pa.date32())).to_pylist() == [86_400]
    assert seconds(pa.nulls(2)).to_pylist() == [None, None]
    assert seconds(pa.array([True])).to_pylist() == [None]


DAY = 1_502_928_000  # 2017-08-17


@pytest.mark.parametrize(
    "value, expected",
    [
        (MOMENT * 10**9 + 7, MOMENT),
        (str(MOMENT * 10**9), pytest.approx(MOMENT, abs=1)),
        ("1.503008128e+09", MOMENT),
        (20170817, DAY),
        ("20170817", DAY),
        (20170817.0, DAY),
        (201708172215, MOMENT - 28),
        (20170817221528, MOMENT),
        (2017, 1_483_228_800),
        ("2017", 1_483_228_800),
        (42964, DAY),
        (42964.5, DAY + 43_200),
        ("42964", DAY),
    ],
)
def test_numbers_that_are_dates(value, expected):
    assert seconds(pa.array([value])).to_pylist() == [expected]


@pytest.mark.parametrize(
    "value, expected",
    [
        ("17.08.2017", DAY),
        ("17.08.17", DAY),
        ("17/08/2017", DAY),
        ("8/17/2017", DAY),
        ("8/17/17 22:15", MOMENT - 28),
        ("17-08-2017 22:15:28", MOMENT),
        ("8/17/2017 10:15:28 PM", MOMENT),
        ("17-Aug-2017", DAY),
        ("August 17, 2017", DAY),
        ("17. August 2017", DAY),
        ("Thu, 17 Aug 2017 15:15:28 -0700", MOMENT),
        ("Thu Aug 17 22:15:28 2017", MOMENT),
        ("2017-08-17 22:15:28 UTC", MOMENT),
        ("2017-08-17T22:15:28.123456", MOMENT),
        ("2017-08", 1_501_545_600),
    ],
)
def test_written_dates(value, expected):
    assert seconds(pa.array([value])).to_pylist() == [expected]


def test_one_value_decides_the_order_of_day_and_month_for_its_column():
    assert seconds(pa.array(["03/04/2017", "17/08/2017"])).to_pylist() == [1_491_177_600, DAY]
    assert seconds(pa.array(["03/04/2017", "08/17/2017"])).to_pylist() == [1_488_585_600, DAY]
    assert seconds(pa.array(["03/04/2017"])).to_pylist() == [None]
    order = DayOrder()
    seconds(pa.array(["17/08/2017"]), order)
    assert seconds(pa.array(["03/04/2017", "08/17/2017"]), order).to_pylist() == [1_491_177_600, None]


@pytest.mark.parametrize("value", [20171345, 20170230, 201708172599, "31.02.2017", "17/08/2017 25:00", "20170817x"])
def test_dates_that_do_not_exist_are_null(value):
    assert seconds(pa.array([value])).to_pylist() == [None]


def test_small_numbers_stay_seconds():
    assert seconds(pa.array([1, 1000, 1969, 2101, 10**6])).to_pylist() == [1, 1000, 1969, 2101, 10**6]


def test_codes_and_types_that_hold_no_dates():
    assert seconds(pa.array(["2017-08-17", None]).dictionary_encode()).to_pylist() == [DAY, None]
    for values in (pa.array([[1]]), pa.array([1], pa.duration("s")), pa.array([{"a": 1}])):
        with pytest.raises(StarError, match=r"cannot be read from a column of type .* - dates are read as seconds"):
            seconds(values)
