import pyarrow as pa
import pytest

from star_rl.sources.times import seconds

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
