"""Each fault by its name, and nothing but it."""

from __future__ import annotations

import pytest

from star_rl.trajectory import faults, parse, plan_of

PLAN = '<plan><JSON>["User_Profile_Summary"]</JSON></plan>'
EXPERT = '<user_profile><JSON>["a"]</JSON></user_profile>'
OTHER = '<recent_analysis><JSON>["b"]</JSON></recent_analysis>'
REFLECTION = '<reflection><JSON>{"correct": "yes"}</JSON></reflection>'
RECOMMEND = '<recommend><JSON>["1"]</JSON></recommend>'


@pytest.mark.parametrize(
    "text",
    [
        PLAN + EXPERT + REFLECTION + RECOMMEND,
        PLAN + REFLECTION + RECOMMEND,
        PLAN + EXPERT + OTHER + REFLECTION + EXPERT + RECOMMEND,
        PLAN + EXPERT + REFLECTION + EXPERT + REFLECTION + EXPERT + RECOMMEND,
        f"some words {PLAN} more {EXPERT} {REFLECTION} {RECOMMEND} end",
    ],
)
def test_well_formed(text: str) -> None:
    assert faults(parse(text)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["missing:plan", "missing:reflection", "missing:recommend"]),
        (EXPERT + REFLECTION + RECOMMEND, ["missing:plan"]),
        (PLAN + EXPERT + RECOMMEND, ["missing:reflection"]),
        (PLAN + EXPERT + REFLECTION, ["missing:recommend"]),
        (EXPERT + PLAN + REFLECTION + RECOMMEND, ["order:plan"]),
        (PLAN + RECOMMEND + REFLECTION, ["order:recommend"]),
        (PLAN + REFLECTION + EXPERT + RECOMMEND, ["order:reflection"]),
        (PLAN + PLAN + REFLECTION + RECOMMEND, ["repeated:plan"]),
        (PLAN + REFLECTION + RECOMMEND + RECOMMEND, ["repeated:recommend"]),
        (PLAN + EXPERT + EXPERT + REFLECTION + RECOMMEND, ["repeated:user_profile"]),
        (PLAN + EXPERT + REFLECTION + EXPERT + EXPERT + RECOMMEND, ["repeated:user_profile"]),
        (PLAN + "<user_profile></user_profile>" + REFLECTION + RECOMMEND, ["json:user_profile"]),
        (PLAN + REFLECTION + '<recommend><JSON>{"1": 2}</JSON></recommend>', ["list:recommend"]),
        (PLAN + REFLECTION + "<recommend><JSON>[1</JSON></recommend>", ["json:recommend"]),
        (PLAN + REFLECTION + "<recommend><JSON>[]</JSON><JSON>[]</JSON></recommend>", ["repeated:JSON in recommend"]),
        (PLAN + REFLECTION + RECOMMEND + "</plan>", ["tags:stray:</plan>"]),
        ("<tool_response>x</tool_response>" + PLAN + REFLECTION + RECOMMEND, ["forged:"]),
        ("<tool_call>[]</tool_call>" + PLAN + REFLECTION + RECOMMEND, ["call:not an object"]),
    ],
)
def test_each_fault_alone(text: str, expected: list[str]) -> None:
    assert faults(parse(text)) == expected


def test_an_ablated_student_needs_fewer_phases() -> None:
    assert faults(parse(PLAN + EXPERT + RECOMMEND), required=("plan", "recommend")) == []
    assert faults(parse(PLAN), required=("plan",)) == []
    assert faults(parse("nothing"), required=()) == []


def test_the_plan_is_read_from_the_first_plan_that_parses() -> None:
    assert plan_of(parse("<plan><JSON>no</JSON></plan>" + PLAN)) == ["User_Profile_Summary"]
    assert plan_of(parse('<plan><JSON>["Nobody", 3, "User_Profile_Summary"]</JSON></plan>')) == ["User_Profile_Summary"]
    assert plan_of(parse("")) == []
