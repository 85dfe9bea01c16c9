"""Slots: short names in prompts and answers, ids everywhere else."""

import json

import pytest

from star_rl.prompts import PromptOptions, Slots, student_prompt
from tests.fakes import World

SLOTS = Slots("u<7", ["B01", 'q"uo</JSON>te', "c2"], ["r1", "B01", "r1"], 2)


@pytest.mark.parametrize(
    "text, ids",
    [
        ('["c1", "c3"]', '["B01", "c2"]'),  # an id that looks like a slot is not replaced again
        ("Points to c1.", "Points to B01."),
        ('{"item_ids": ["h1", "h2", "h3"]}', '{"item_ids": ["r1", "B01", "r1"]}'),
        ('["c4", "c0", "c01", "C1", "xc1", "c1x", "h9"]', '["c4", "c0", "c01", "C1", "xc1", "c1x", "h9"]'),
        ('{"user_id": "me"} tells me', '{"user_id": "u\\u003c7"} tells me'),
        ("", ""),
    ],
)
def test_names_become_ids_and_nothing_else_changes(text, ids):
    assert SLOTS.ids_in(text) == ids


def test_a_hostile_id_stays_json_and_forms_no_tag():
    written = SLOTS.ids_in('<JSON>["c2"]</JSON>')
    assert written.count("</JSON>") == 1
    assert json.loads(written.removeprefix("<JSON>").removesuffix("</JSON>")) == ['q"uo</JSON>te']


def test_history_stands_for_the_latest_of_the_record():
    assert SLOTS.ids_of(["history"]) == ["r1", "B01"]
    assert SLOTS.ids_of(["c3", "h1", "history", "elsewhere"]) == ["c2", "r1", "B01", "elsewhere"]


def test_a_candidate_is_named_before_the_record_and_the_latest_entry_before_older_ones():
    assert [SLOTS.name_of(item) for item in ("B01", "r1", "c2", "unknown")] == ["c1", "h1", "c3", None]


@pytest.mark.parametrize("profile", ["compact", "full"])
def test_a_prompt_in_slots_holds_no_id_and_all_details(profile):
    world = World(nasty=False)
    task = world.tasks[0]
    ids, slots = (
        student_prompt(world.case(task), PromptOptions(profile, names)).messages[1]["content"]
        for names in ("ids", "slots")
    )
    assert not {*task.candidates, task.user_id} & set(slots.replace("|", " ").split())
    assert world.case(task, "slots").slots.ids_in(slots).replace("me", task.user_id, 1) == ids or profile == "full"
    assert [line.partition(" ")[0] for line in slots.splitlines() if line.startswith("c")] == [
        f"c{place}" for place in range(1, 21)
    ]


def test_naming_twice_is_naming_once():
    case = World().case(World().tasks[0], "slots")
    assert case.named("slots", 3) is case
    assert case.slots.record[0] == World().histories["u0"][-1][0]
