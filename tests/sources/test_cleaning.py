import pyarrow as pa
import pytest

from star_rl.sources.cleaning import clean_ratings, clean_text, labels, present


@pytest.mark.parametrize(
    "value, expected",
    [
        ("['Sports & Outdoors', 'Golf']", ["Sports & Outdoors", "Golf"]),
        ("[{'id': 18, 'name': 'Drama'}]", ["Drama"]),
        ('["Sports", "Golf"]', ["Sports", "Golf"]),
        ('[{"id": 18, "name": "Drama"}, {"id": 35, "name": "Comedy"}]', ["Drama", "Comedy"]),
        ("('a', 'b')", ["a", "b"]),
        ("['Golf' 'Tennis']", ["Golf", "Tennis"]),
        ("[Comedy, Drama]", ["Comedy", "Drama"]),
        ("[['A', 'B'], ['C']]", ["A", "B", "C"]),
        ("{'Golf': 3, 'Tennis': 0}", ["Golf"]),
        ("['Arts, Crafts | Sewing', \"Men's\"]", ["Arts, Crafts | Sewing", "Men's"]),
        ("[]", []),
        ("Kitchen|Cups", ["Kitchen", "Cups"]),
        ("(Sci-Fi)", ["(Sci-Fi)"]),
        ("{odd", ["{odd"]),
        ("nan", []),
        (["A", None, ["B", ["C"]], float("nan"), "None"], ["A", "B", "C"]),
        ([{"name": "Drama"}, {"title": "Noir"}], ["Drama", "Noir"]),
        ({"name": "Drama"}, ["Drama"]),
        ("[{'id': 18}]", ["18"]),
        ([("Golf", 1)], ["Golf", "1"]),
        (b"Kitchen|Cups", ["Kitchen", "Cups"]),
        (7, ["7"]),
        (7.0, ["7"]),
        (True, ["True"]),
        (None, []),
        (float("nan"), []),
        ("[" * 3000 + "]" * 3000, None),
    ],
)
def test_categories_in_every_form_become_labels(value, expected):
    found = labels(value)
    assert all(isinstance(label, str) for label in found)
    assert expected is None or found == expected


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NULL", "null", "N/A", "<NA>", "\\N", " nan "])
def test_words_for_a_missing_value(word):
    assert present(word) is None


@pytest.mark.parametrize("word", ["Nan", "Nullmeridian", "Banana", "", 0])
def test_words_that_only_look_like_one(word):
    assert present(word) == word


def test_titles_may_be_bytes():
    assert clean_text("Été ".encode()) == "Été"


@pytest.mark.parametrize(
    "text, number",
    [
        ("4.0e+00", 4.0),
        ("4,0", 4.0),
        (".5", 0.5),
        ("4.", 4.0),
        ("-1", -1.0),
        ("3,75", 3.75),
        ("1E1", 10.0),
        (" 4 ", 4.0),
    ],
)
def test_ratings_in_every_form_of_a_number(text, number):
    ratings, odd = clean_ratings(pa.array([text, None, ""]))
    assert ratings.to_pylist() == [number, None, None] and odd.null_count == 3


@pytest.mark.parametrize("text", ["4/5", "4.0 out of 5 stars", "four", "1,234", "1.2.3", ",", ".", "e5", "★★★★"])
def test_ratings_that_are_no_number_are_returned_as_text(text):
    ratings, odd = clean_ratings(pa.array([text, "3"]))
    assert ratings.to_pylist() == [None, 3.0] and odd.to_pylist() == [text, None]
