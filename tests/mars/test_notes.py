"""Notes by rules: what they rank, and how one choice corrects them."""

import pytest

from star_rl.mars.notes import notes, rank_by_notes, read_notes, rewrite_notes
from star_rl.prompts import Behaviour, Case, Memory
from star_rl.records import Item

ITEMS = {name: Item(name, name, (name[0],)) for name in ("a1", "a2", "b1", "b2", "c1", "d1", "e1")}


def case(history=(), memory=None):
    record = tuple(Behaviour(name, place, rating) for place, (name, rating) in enumerate(history))
    return Case("t", "films", "classic", "u", ("c1", "b1", "a1"), record, ITEMS, memory=memory)


@pytest.mark.parametrize("likes, avoids", [(["a"], []), (["Sci-Fi", "b"], ["Film-Noir", "x"])])
def test_notes_are_read_as_they_were_written(likes, avoids):
    assert read_notes(notes(likes, avoids)) == (likes, avoids)


@pytest.mark.parametrize("text", ["", "none", "Likes: .", "likes a", "Likes: a. Avoids: b"])
def test_words_of_another_form_are_no_notes(text):
    assert read_notes(text) in (([], []), ([""], []))


def test_liked_kinds_come_first_and_avoided_ones_last():
    why, order = rank_by_notes(case(memory=Memory("Likes: b. Avoids: c.")), (), {}, 1.0)
    assert (why, order) == ("b first.", ["b1", "a1", "c1"])
    _, popular = rank_by_notes(case(memory=Memory("Likes: b. Avoids: c.")), (), {"c1": 500}, 1.0)
    assert popular[0] == "c1"


def test_without_notes_the_record_is_read_and_without_a_record_the_order_stays():
    liked = case([("a1", 5.0), ("c1", 1.0)])
    assert rank_by_notes(liked, liked.history, {}, 1.0)[1][0] == "a1"
    assert rank_by_notes(case(), (), {}, 0.0) == ("No notes.", ["c1", "b1", "a1"])


@pytest.mark.parametrize(
    "before, chosen, rating, after",
    [
        ("Likes: a, b, c.", "b1", 5.0, "Likes: b, a, c."),
        ("Likes: a, b, c.", "a1", 5.0, "Likes: a, b, c."),
        ("Likes: a, b, c.", "a1", 1.0, "Likes: b, a, c."),
        ("Likes: a, b, c.", "c1", 1.0, "Likes: a, b. Avoids: c."),
        ("Likes: a, b, c, d.", "e1", 4.0, "Likes: a, b, c, e."),
        ("Likes: a. Avoids: e.", "e1", None, "Likes: a, e."),
        ("Likes: a. Avoids: b, c.", "d1", 2.0, "Likes: a. Avoids: d, b."),
        ("", "b1", 5.0, "Likes: b."),
    ],
)
def test_one_choice_moves_one_kind(before, chosen, rating, after):
    why, text = rewrite_notes(case([(chosen, rating)]), Memory("", before), [ITEMS["a2"]])
    assert text == after and why.startswith(f"Chose {chosen[0]}")
