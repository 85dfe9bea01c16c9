from star_rl.prompts import Behaviour, flavour_of
from star_rl.records import Item
from star_rl.summaries.rules import summary_by_rules
from star_rl.trajectory.grammar import TAG
from tests.fakes import NASTY

DAY = 86400
BOOKS = {
    f"b{n}": Item(f"b{n}", f"Book {n}", ("Horror" if n < 4 else "Travel", "Books"), {"authors": [f"Author {n % 2}"]})
    for n in range(8)
}


def record(*rows):
    return [Behaviour(item, 1_400_000_000 + place * DAY, rating) for place, (item, rating) in enumerate(rows)]


def test_a_summary_counts_what_was_chosen_and_names_ids():
    text = summary_by_rules(record(*((f"b{n}", 3.0 + n % 3) for n in range(8))), BOOKS, flavour_of("goodreads"), 4, 500)
    assert text.splitlines() == [
        "The user read 8 books, from 2014-05-13 to 2014-05-20.",
        "Kinds: Books 8, Horror 4, Travel 4.",
        "By position: 1-4 Books 4, Horror 4; 5-8 Books 4, Travel 4.",
        "Most often by: Author 0 4, Author 1 4.",
        "Ratings: 8 given, mean 3.9 (5 x 2, 4 x 3, 3 x 3).",
        "Books: b0 Book 0; b6 Book 6; b7 Book 7.",
        "Horror: b0 Book 0; b2 Book 2; b3 Book 3.",
        "Travel: b4 Book 4; b6 Book 6; b7 Book 7.",
    ]


def test_turning_points_are_told_by_position():
    items = {"a": Item("a", "A", ("Noir",)), "b": Item("b", "B", ("War",))}
    rows = record(*(("ab"[n // 4 % 2], None) for n in range(12)))
    text = summary_by_rules(rows, items, flavour_of("films"), 4, 500)
    assert "By position: 1-4 Noir 4; 5-8 War 4; 9-12 Noir 4." in text
    assert "position" not in summary_by_rules(rows[:4], items, flavour_of("films"), 4, 500)
    text = summary_by_rules(rows * 4, items, flavour_of("films"), 4, 500)
    assert "By position: ..; 17-20 " in text and "45-48 Noir 4." in text


def test_words_are_kept_to_and_the_first_line_always_stands():
    rows = record(*((f"b{n}", 4.0) for n in range(8)))
    whole = summary_by_rules(rows, BOOKS, flavour_of("goodreads"), 4, 500)
    for words in (1, 12, 20, 40):
        text = summary_by_rules(rows, BOOKS, flavour_of("goodreads"), 4, words)
        assert whole.startswith(text) and text and (len(text.split()) <= words or "\n" not in text)


def test_unknown_items_positions_and_nasty_titles():
    items = {"n": Item("n", NASTY * 9, (NASTY, ""))}
    rows = [Behaviour("n", 1), Behaviour("gone", 2), Behaviour("n", 3)]
    text = summary_by_rules(rows, items, flavour_of("x"), 2, 500)
    assert text.startswith("The user chose 3 items, 2 different ones.") and not TAG.search(text) and "<|" not in text
    assert summary_by_rules([Behaviour("gone", 1)], {}, flavour_of("x"), 2, 500) == "The user chose 1 items."
