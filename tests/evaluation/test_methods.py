"""The interface and the names: what a method may see, what it may hand back, and how it is called."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from star_rl.errors import StarError
from star_rl.evaluation.methods import Ranking, TaskContext, as_ranking, make
from star_rl.evaluation.methods.agents import Workflow
from star_rl.evaluation.methods.baseline import BaselineMethod
from star_rl.evaluation.methods.registry import MAKERS, load, parse_spec
from star_rl.evaluation.runner import run_method
from star_rl.failure import Failure
from star_rl.records import INTERACTIONS, Task

TASK = Task("t", "amazon", "classic", "u", tuple(str(n) for n in range(20)), "7", 5)
WORLD = SimpleNamespace(folder=Path("absent"), visible=INTERACTIONS.empty_table(), items={}, config={})


def test_a_specification_is_a_name_an_argument_and_options():
    assert parse_spec("random") == parse_spec("random")
    spec = parse_spec("mars:planner=off:endpoint=http://localhost:8000/v1:rounds=2:share=0.5")
    assert (spec.name, spec.argument) == ("mars", "")
    assert spec.options == {"planner": False, "endpoint": "http://localhost:8000/v1", "rounds": 2, "share": 0.5}
    spec = parse_spec("star:runs/a b/final:temperature=0:logprobs=on")
    assert (spec.name, spec.argument) == ("star", "runs/a b/final")
    assert spec.options == {"temperature": 0, "logprobs": True}
    assert parse_spec("python:my.py:make").argument == "my.py:make"
    assert parse_spec("star:evidence=false:name=1").options == {"evidence": "false", "name": "1"}


@pytest.mark.parametrize("text", ["", ":x", "=x", "a=b", "mars:x=1:x=2"])
def test_what_names_no_method_is_refused(text):
    with pytest.raises(StarError):
        parse_spec(text)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(StarError, match=r"there is no method 'gpt'.*random.*mars.*star"):
        make("gpt", WORLD, 0, None)


def test_a_method_that_is_not_there_is_answered_with_the_known_ones():
    with pytest.raises(StarError, match=r"method x is not available.*random"):
        load("star_rl.baselines:Absent", "x")
    with pytest.raises(StarError, match="method x is not available"):
        load("star_rl.no_such_module:Absent", "x")
    assert {"random", "item_knn", "mf", "sasrec", "teacher", "mars", "star", "cot"} <= set(MAKERS)


def test_unknown_options_and_arguments_of_a_baseline_are_refused():
    with pytest.raises(StarError, match="'random:colour=red'"):
        make("random:colour=red", WORLD, 0, None)
    with pytest.raises(StarError, match="takes no argument"):
        make("random:loud", WORLD, 0, None)


def test_a_name_of_ones_own():
    assert make("random:name=dice", WORLD, 0, None).name == "dice"
    assert make("random:seed=3", WORLD, 0, None).name == "random seed=3"


def test_the_task_that_a_method_is_given_has_no_answer():
    context = TaskContext(TASK)
    assert context.task.ground_truth == "" and context.task.candidates == TASK.candidates


@pytest.mark.parametrize("found", ["7", b"7", 7, {"7": 1}, iter(["7"]), object()])
def test_what_is_no_list_is_a_failure_and_said(found):
    made = as_ranking(found)
    assert made.ids is None and made.failure.message.startswith(f"returned a {type(found).__name__}")


def test_entries_that_are_no_strings_keep_their_places():
    assert as_ranking(["7", 7, None, ["7"], "\ud800"]).ids == ["7", None, None, None, "?"]
    assert as_ranking(("7",)).ids == ["7"] and as_ranking([]).ids == []
    assert as_ranking(None).failure == Failure("error", "returned nothing")


def test_a_ranking_keeps_its_figures_and_loses_a_string():
    made = as_ranking(Ranking(["7"], calls=3, confidence=-0.5))
    assert (made.ids, made.calls, made.confidence) == (["7"], 3, -0.5)
    assert as_ranking(Ranking("7", calls=3)).failure.message.startswith("returned a str")
    assert as_ranking(Ranking(None, "why")).failure == Failure("error", "why")


def test_a_baseline_sees_the_items_of_the_history():
    class Echo:
        name = "echo"

        def rank(self, context):
            return [*context.item_ids, context.task.ground_truth]

    context = TaskContext(TASK, [("a", 1, None), ("b", 2, 5.0)])

    async def ask():
        async with BaselineMethod(Echo()) as method:
            return await method.rank(context)

    found = asyncio.run(ask())
    assert found.ids == ["a", "b", ""] and found.seconds is not None


def test_an_agent_sees_the_case_and_its_costs_are_kept():
    class Agent:
        name = "agent"

        async def rank(self, case, sample):
            costs = {"calls": 2, "tokens_in": 30, "tokens_out": 4}
            return SimpleNamespace(failure=None, ranking=list(case.candidates), messages=[{"role": "user"}], **costs)

    found = asyncio.run(Workflow(Agent()).rank(TaskContext(TASK)))
    assert (found.ids, found.calls, found.tokens_in, found.tokens_out) == (list(TASK.candidates), 2, 30, 4)
    assert found.trace == {"messages": [{"role": "user"}]}


def test_a_baseline_is_trained_only_when_it_is_entered():
    fitted = []
    method = BaselineMethod(None, name="late", fit=lambda: fitted.append(1))
    assert method.name == "late" and fitted == []
    asyncio.run(method.__aenter__())
    assert fitted == [1]


def test_a_method_that_learns_says_at_which_epoch_it_is(tmp_path):
    rows = [
        {"user_id": f"u{k % 9}", "item_id": str(k % 20), "timestamp": k, "rating": None, "text": None}
        for k in range(90)
    ]
    world = SimpleNamespace(
        folder=tmp_path, visible=pa.Table.from_pylist(rows, schema=INTERACTIONS), items={}, config={}
    )
    method, said = make("mf:epochs=3:embedding_size=2", world, 0, None), []
    asyncio.run(
        run_method(method, [TASK], lambda task, _: TaskContext(task), tmp_path, progress=lambda *now: said.append(now))
    )
    assert said[0] == (0, 1, "mf epochs=3 embedding_size=2 gets ready")
    assert said[1] == (0, 1, "mf epochs=3 embedding_size=2 gets ready, epoch 1 of at most 6")
    assert said[-1] == (1, 1, "mf epochs=3 embedding_size=2")
    with pytest.raises(StarError, match="'mf:progress=1'"):
        make("mf:progress=1", world, 0, None)
