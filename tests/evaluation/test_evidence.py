"""Evidence that is taken away or false, and the fusion of the lists by rule."""

import asyncio

import pytest

from star_rl.errors import StarError
from star_rl.evaluation.methods import TaskContext
from star_rl.evaluation.methods.evidence import Evidence
from star_rl.evaluation.methods.fusion import FusionMethod, borda
from star_rl.evidence import StoreAnswer
from star_rl.records import Task

CANDIDATES = tuple(f"i{n}" for n in range(20))
TASK = Task("t", "amazon", "classic", "u", CANDIDATES, "i7", 5)


class Stored:
    """Evidence of 30 items and a user, whose neighbours are the next seven items."""

    fingerprint = "stored"

    def keys(self, tool):
        return ["u"] if tool == "UserCF" else [f"i{n}" for n in range(30)]

    def answer(self, tool, keys, named=None):
        known = [key for key in keys if key in self.keys(tool)]
        numbers = [n + step for key in known for n in [int(key[1:] or 3)] for step in range(1, 8)]
        unknown = tuple(key for key in keys if key not in known)
        return StoreAnswer(f"about {known}", [f"i{n}" for n in numbers], unknown) if known else None


def test_true_evidence_is_the_stores_own():
    store = Stored()
    assert Evidence(store).of(CANDIDATES) is store and Evidence(store).fingerprint == "stored"


def test_no_id_has_evidence_where_it_is_taken_away():
    evidence = Evidence(Stored(), "none")
    assert evidence.of(CANDIDATES).answer("ItemCF", ["i1"]) is None and evidence.fingerprint == "stored none"


def test_false_evidence_names_as_many_candidates_and_is_drawn_by_seed_task_and_call():
    def drawn(seed=0, candidates=CANDIDATES, keys=("i1", "nobody")):
        return Evidence(Stored(), "false", seed).of(candidates).answer("ItemCF", list(keys))

    first = drawn()
    assert len(first.ids) == 7 == len(set(first.ids)) and set(first.ids) <= set(CANDIDATES)
    assert first.unknown == ("nobody",) and first == drawn()
    others = [drawn(seed=1), drawn(candidates=CANDIDATES[::-1]), drawn(keys=["i2", "nobody"])]
    assert all(other.ids != first.ids for other in others)
    assert len(drawn(keys=["i16"]).ids) == 3, "i17, i18 and i19 are candidates"
    assert drawn(keys=["nobody"]) is None
    assert any(drawn(seed=seed, keys=["i1"]).text != "about ['i1']" for seed in range(9))
    assert Evidence(Stored(), "false", 3).fingerprint == "stored false 3"


def test_false_evidence_gives_a_candidate_once_though_a_task_names_it_twice():
    answer = Evidence(Stored(), "false").of(["i2", "i2", "i3"]).answer("ItemCF", ["i1"])
    assert sorted(answer.ids) == ["i2", "i3"]


def test_unknown_evidence_is_refused():
    with pytest.raises(StarError, match="evidence=off is unknown - choose one of true, none, false"):
        Evidence(Stored(), "off")


def test_borda_counts_places_and_leaves_ties_to_the_first_list():
    assert borda([["a", "b"], ["b", "c"]], 2, ["d", "c", "b", "a"]) == ["b", "a", "c", "d"]
    assert borda([[], ["c"]], 5, ["a", "b", "c"]) == ["c", "a", "b"]
    assert borda([], 5, ["b", "a"]) == ["b", "a"]


def fused(user, history, top=3):
    context = TaskContext.of_ids(Task("t", "amazon", "classic", user, CANDIDATES, "i7", 5), history)
    return asyncio.run(FusionMethod(Stored(), 2, top).rank(context))


def test_fusion_merges_users_history_and_the_latest_item():
    # u: i4 i5 i6; i1 and i8 together: i2 i3 i4; i8 alone: i9 i10 i11
    found = fused("u", ["i15", "i1", "i8"])
    assert list(found.ids[:7]) == ["i4", "i2", "i9", "i5", "i3", "i10", "i6"] and found.tool_calls == 3
    assert sorted(found.ids) == sorted(CANDIDATES)


def test_fusion_without_evidence_keeps_the_tasks_order():
    assert list(fused("nobody", []).ids) == list(CANDIDATES)
    assert list(fused("nobody", ["nothing"]).ids) == list(CANDIDATES)
