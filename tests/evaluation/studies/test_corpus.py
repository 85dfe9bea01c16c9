"""Ranking over all items: what is retrieved, how windows are re-ranked, what is counted."""

import asyncio

import numpy as np
import pyarrow as pa
import pytest

from star_rl.baselines import ItemKNN, Popularity
from star_rl.errors import StarError
from star_rl.evaluation.methods import Method, Ranking, TaskContext
from star_rl.evaluation.methods.baseline import BaselineMethod
from star_rl.evaluation.studies import corpus, retrievers
from star_rl.failure import Failure
from star_rl.records import INTERACTIONS, Task
from star_rl.report.grid import markdown

RNG = np.random.default_rng(0)
ROWS = sorted({(f"u{RNG.integers(60):02}", f"i{RNG.integers(90) * RNG.integers(90) // 90:02}") for _ in range(1500)})


def table(rows):
    columns = [
        {"user_id": user, "item_id": item, "timestamp": place, "rating": None, "text": None}
        for place, (user, item) in enumerate(rows)
    ]
    return pa.Table.from_pylist(columns, schema=INTERACTIONS)


VISIBLE = table(ROWS)
FINDER = retrievers.Retriever("item_knn", VISIBLE)
HISTORY = [item for user, item in ROWS if user == "u07"]


def task(truth="i40", number=0):
    return Task(f"t{number}", "films", "classic", "u07", tuple(f"i{n:02}" for n in range(20)), truth, 5)


@pytest.mark.parametrize("name", list(retrievers.RETRIEVERS))
def test_a_retriever_finds_distinct_items_outside_the_history(name):
    found = retrievers.Retriever(name, VISIBLE).retrieve(HISTORY, 30)
    assert len(found) == len(set(found)) == 30
    assert not set(found) & set(HISTORY)
    assert found == retrievers.Retriever(name, VISIBLE).retrieve([*HISTORY, *HISTORY, "unknown"], 30)


@pytest.mark.parametrize("name", list(retrievers.RETRIEVERS))
def test_a_retriever_without_a_history_falls_back_on_popularity(name):
    assert retrievers.Retriever(name, VISIBLE).retrieve([], 10) == retrievers.Retriever("popularity", VISIBLE).retrieve(
        [], 10
    )
    everything = retrievers.Retriever(name, VISIBLE).retrieve([], 10_000)
    assert sorted(everything) == sorted({item for _, item in ROWS})


def ranked(method, found, timeout=5.0, depth=40):
    """What a method makes of one task's retrieved items, as ``star-rl corpus`` asks it."""

    async def work():
        async with corpus.Shared(method) as shared:
            made = corpus.Reranked(shared, FINDER, {"t0": found}, depth, 20, timeout, 0)
            async with made:
                return await made.rank(TaskContext.of_ids(task(), HISTORY))

    return asyncio.run(work())


def test_retriever_and_baseline_order_items_alike():
    """What ItemKNN and popularity retrieve, they leave as it is when they re-rank."""
    for retriever, kind in (("item_knn", ItemKNN), ("popularity", Popularity)):
        found = retrievers.Retriever(retriever, VISIBLE).retrieve(HISTORY, 40)
        scores = {item: place for place, item in enumerate(found)}
        again = ranked(BaselineMethod(kind().fit(VISIBLE)), found).ids
        assert sorted(again) == sorted(found)
        moved = [abs(scores[item] - place) for place, item in enumerate(again)]
        assert np.median(moved) <= 2, retriever  # ties alone may move


def test_windows_cover_the_list_from_its_end_to_its_start():
    assert corpus.windows(50, 20, 10) == [(30, 50), (20, 40), (10, 30), (0, 20)]
    assert corpus.windows(45, 20) == [(25, 45), (15, 35), (5, 25), (0, 20)]
    assert corpus.windows(20) == corpus.windows(20, 20, 20) == [(0, 20)]
    assert corpus.windows(7) == [(0, 7)] and corpus.windows(0) == []
    for size, step in ((1, 1), (20, 0), (20, 21)):
        with pytest.raises(StarError, match=f"windows of {size}"):
            corpus.windows(50, size, step)


def rerank(ask, retrieved, **options):
    return asyncio.run(corpus.rerank(task(), retrieved, ask, **options))


RETRIEVED = [f"i{number:02}" for number in range(50)]


def test_an_item_found_low_can_rise_to_the_top():
    async def ask(one):
        return Ranking(sorted(one.candidates, reverse=True))

    assert rerank(ask, RETRIEVED).ids[:10] == sorted(RETRIEVED, reverse=True)[:10]


def test_windows_hold_as_many_as_a_task_and_neither_the_truth_nor_their_order():
    seen = []

    async def ask(one):
        seen.append(one)
        return Ranking(list(one.candidates))

    first = rerank(ask, RETRIEVED)
    assert all(len(one.candidates) == 20 and one.ground_truth == "" for one in seen)
    assert len({one.task_id for one in seen}) == len(seen) == 4
    assert list(seen[0].candidates) != RETRIEVED[30:]
    assert first.ids != RETRIEVED and first == rerank(ask, RETRIEVED)
    assert rerank(ask, RETRIEVED, seed=1) != first


@pytest.mark.parametrize("answer", [None, [], ["x"], [None, "x", "x"]])
def test_a_window_in_which_nothing_is_named_fails_the_task(answer):
    """Else a method that never answers has what the retriever earns."""

    async def ask(one):
        return (
            Ranking(None if one.task_id.endswith("~2") else list(one.candidates)) if answer is None else Ranking(answer)
        )

    found = rerank(ask, RETRIEVED)
    assert found.ids is None and "named none of the items (window " in found.failure.message


def test_a_failure_keeps_its_reason():
    async def ask(one):
        return Ranking(None, Failure("endpoint", "503"))

    assert rerank(ask, RETRIEVED).failure == Failure("endpoint", "503 (window 1 of 4)")


def test_a_short_or_repeated_answer_leads_and_the_rest_keeps_its_order():
    async def ask(one):
        return Ranking(["i05", "i05", "zz", "i03"])

    assert rerank(ask, RETRIEVED[:20]).ids[:4] == ["i05", "i03", "i00", "i01"]


class Hangs(Method):
    name = "hangs"

    async def rank(self, context):
        await asyncio.Event().wait()


def test_a_window_has_its_time():
    assert ranked(Hangs(), RETRIEVED, 0.05).failure == Failure("timeout", "no answer within 0.05 s (window 1 of 4)")


def test_retrievers_share_one_opened_method():
    class Counted(Method):
        name, opened, closed = "counted", 0, 0

        async def __aenter__(self):
            Counted.opened += 1
            self.in_flight = 3
            return self

        async def __aexit__(self, *_):
            Counted.closed += 1

        async def rank(self, context):
            return Ranking(list(context.task.candidates))

    async def work():
        async with corpus.Shared(Counted()) as shared:
            for finder in (FINDER, retrievers.Retriever("popularity", VISIBLE)):
                made = corpus.Reranked(shared, finder, {"t0": RETRIEVED}, 50, 20, 5.0, 0)
                assert made.name == f"counted on 50 of {finder.name}"
                async with made:
                    assert made.in_flight == 3 and Counted.closed == 0
                    await made.rank(TaskContext(task()))

    asyncio.run(work())
    assert (Counted.opened, Counted.closed) == (1, 1)


def test_a_truth_that_was_not_retrieved_is_a_miss():
    tasks = [task("i00", 0), task("i15", 1), task("nowhere", 2), task("i05", 3)]
    found = corpus.figures([RETRIEVED, RETRIEVED, RETRIEVED, []], tasks, [RETRIEVED, RETRIEVED, RETRIEVED, []], 200)
    assert (found["n"], found["retrieved"], found["hr10"], found["hr20"]) == (4, 50.0, 25.0, 50.0)
    assert found["ndcg10"] == pytest.approx(25.0)
    assert found["ndcg20"] == pytest.approx(25.0 * (1 + 1 / np.log2(17)))
    assert found["hr20_low"] <= 50.0 <= found["hr20_high"]
    text = markdown(corpus.grid([{"retriever": "r", "method": "m", "depth": 50, **found}]))
    assert "| r | m | 50 | 4 | 0 | 50.0 | 25.0 [" in text


def test_a_task_that_failed_is_a_miss_though_its_truth_was_retrieved():
    tasks = [task("i00", 0), task("i01", 1)]
    found = corpus.figures([RETRIEVED, None], tasks, [RETRIEVED, RETRIEVED], 200)
    assert (found["n"], found["failed"], found["retrieved"], found["hr10"]) == (2, 1, 100.0, 50.0)
    row = {"retriever": "r", "method": "m", "reasons": [["no", 1]], **found}
    assert corpus.problems([row]) == ["m on what r retrieved: 1 of 2 tasks failed and count as misses (1 x no)"]


def test_what_cannot_retrieve_is_refused():
    with pytest.raises(StarError, match="there is no retriever 'bm25'"):
        retrievers.Retriever("bm25", VISIBLE)
    with pytest.raises(StarError, match="no visible interactions"):
        retrievers.Retriever("item_knn", INTERACTIONS.empty_table())
