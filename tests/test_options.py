"""Options: a bad value names itself and what is allowed."""

import pickle
from dataclasses import field, replace
from typing import Any, Literal

import pytest

from star_rl.errors import StarError
from star_rl.options import Count, Share, Size, keys, known, options, read_options


@options
class Inner:
    size: Size = 1
    total: Literal["max"] | Size = "max"


@options
class Outer:
    name: str
    share: Share = 0.5
    least: Count = 0
    most: Count | None = None
    inner: Inner = field(default_factory=Inner)
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.most is not None and self.least > self.most:
            raise StarError(f"least={self.least} is above most={self.most}", "give less")


@pytest.mark.parametrize(
    "values, says",
    [
        ({}, "at.name is not set - it has no default"),
        ({"name": "x", "share": 1.5}, "at.share=1.5 is not valid - it should be at most 1"),
        ({"name": "x", "share": float("nan")}, "at.share=nan is not valid - it should be a finite number"),
        ({"name": "x", "share": "0.5"}, "at.share='0.5' is not valid - it should be a valid number"),
        ({"name": "x", "least": True}, "at.least=True is not valid - it should be a valid integer"),
        ({"name": "x", "inner": {"size": 0}}, "at.inner.size=0 is not valid - it should be at least 1"),
        ({"name": "x", "inner": {"total": 0}}, "at.inner.total=0 is not valid - it should be 'max' or at least 1"),
        ({"name": "x", "inner": 3}, "at.inner=3 is not a section - write keys with values below it"),
        ({"name": "x", "inner": {"sise": 1}}, "at.inner.sise is not known - did you mean inner.size"),
        ({"name": "x", "zzz": 1}, "at.zzz is not known - one of inner, least, more, most, name, share"),
        ({"name": "x", "least": 3, "most": 2}, "at.least=3 is above most=2 - give less"),
        ([1], r"at=\[1\] is not a section"),
    ],
)
def test_a_bad_value_is_one_sentence(values, says):
    with pytest.raises(StarError, match=says):
        read_options(Outer, values, "at")


def test_one_that_is_given_by_position_is_named():
    with pytest.raises(StarError, match=r"^share=2 is not valid"):
        Outer("x", 2)


def test_options_are_frozen_compared_replaced_and_pickled():
    made = Outer("x", inner=Inner(3))
    assert replace(made, share=1.0) == Outer("x", 1.0, inner=Inner(3))
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(AttributeError):
        made.share = 0.1
    with pytest.raises(StarError, match="share=3"):
        replace(made, share=3)


def test_keys_are_dotted():
    assert list(keys(Outer)) == ["name", "share", "least", "most", "inner.size", "inner.total", "more"]


def test_unknown_keys_of_any_section():
    known({"a": 1}, ["a", "b"], "at")
    with pytest.raises(StarError, match=r"at\.c is not known - one of a, b"):
        known({"c": 1}, ["a", "b"], "at")
