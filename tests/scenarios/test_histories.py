import pyarrow as pa
import pytest

from star_rl.errors import StarError
from star_rl.records import INTERACTIONS, Task, write_table
from star_rl.scenarios import Histories, Reviews, assert_no_leak, first_contact


def table(*rows):
    return pa.Table.from_pylist(
        [{"user_id": u, "item_id": i, "timestamp": t, "rating": r, "text": None} for u, i, t, r in rows], INTERACTIONS
    )


def task(user="u", truth="x", cutoff=10):
    return Task("t-1", "s", "classic", user, (truth,), truth, cutoff)


ROWS = table(("u", "a", 1, 5.0), ("v", "x", 2, None), ("u", "b", 9, None), ("u", "c", 10, 3.0), ("u", "x", 10, 1.0))


def test_a_history_is_strictly_before_the_cutoff_oldest_first():
    histories = Histories(ROWS)
    assert histories.history(task()) == [("a", 1, 5.0), ("b", 9, None)]
    assert histories.history(task(cutoff=1)) == []
    assert histories.history(task(user="nobody")) == []
    assert [event[0] for event in histories.of_user("u")] == ["a", "b", "c", "x"]
    assert [event[0] for event in histories.of_user("u", before=9)] == ["a"]


def test_a_late_cutoff_still_ends_before_the_first_contact():
    assert [event[0] for event in Histories(ROWS).history(task(cutoff=99))] == ["a", "b"]


def test_no_interactions_at_all():
    assert Histories(table()).history(task()) == []
    assert_no_leak(table(), [task()])
    assert_no_leak(ROWS, [])


def test_first_contacts():
    rows = table(("u", "a", 5, None), ("u", "a", 3, None), ("v", "a", 1, None))
    assert first_contact(rows, [("u", "a"), ("v", "a"), ("u", "b"), ("w", "a")]) == [3, 1, None, None]


def test_the_guard_names_the_pair_and_the_task():
    assert_no_leak(table(("u", "a", 9, None), ("v", "x", 99, None)), [task()])
    with pytest.raises(StarError, match=r"\(user u, item x\), which task t-1"):
        assert_no_leak(table(("u", "a", 1, None), ("u", "x", 3, None)), [task()])
    with pytest.raises(StarError, match=r"\(user u, item b\), which task t-1"):
        assert_no_leak(table(("u", "b", 10, None)), [task()])


def test_users_that_are_grouped_but_not_sorted_and_a_part_of_a_coded_table():
    names = ["zoe", "ann", "éva", "bob", "Bob"]
    rows = table(*((name, f"i{k}", k, None) for name in names for k in range(3)))
    coded = rows.set_column(0, "user_id", rows["user_id"].dictionary_encode())
    coded = coded.set_column(1, "item_id", coded["item_id"].dictionary_encode())
    for whole in (rows, coded):
        histories = Histories(whole)
        assert all([event[0] for event in histories.of_user(name)] == ["i0", "i1", "i2"] for name in names)
        assert not any(histories.of_user(name) for name in ("", "Zoe", "zoe ", "a", "\U0001f600"))
        part = Histories(whole.slice(3, 7))  # a dictionary of more users than have rows, in another order
        assert [len(part.of_user(name)) for name in names] == [0, 3, 3, 1, 0]
        late = task(user="éva", truth="i9", cutoff=2)
        assert first_contact(whole, [("éva", "i2"), ("zoe", "i9")]) == [2, None]
        with pytest.raises(StarError, match=r"\(user éva, item i2\)"):
            assert_no_leak(whole.slice(3, 7), [late])


def test_reviews_are_found_by_time_so_that_a_later_text_stays_unseen(tmp_path):
    rows = [("u", "a", 1, "early"), ("u", "a", 9, "late"), ("v", "a", 1, "other"), ("u", "b", 2, None)]
    rows = [dict(zip(INTERACTIONS.names, (u, i, t, None, x), strict=True)) for u, i, t, x in rows]
    write_table(tmp_path / "interactions.parquet", pa.Table.from_pylist(rows, INTERACTIONS), "interactions")
    reviews = Reviews.read(tmp_path, {"u", "nobody"})
    assert reviews.of("u", [("a", 1, None), ("b", 2, 3.0)]) == {("a", 1): "early"}
    assert reviews.of("u", [("a", 9, None)]) == {("a", 9): "late"}
    assert reviews.of("v", [("a", 1, None)]) == {} == reviews.of("nobody", [("a", 1, None)])
    assert Reviews(INTERACTIONS.empty_table()).of("u", [("a", 1, None)]) == {}
