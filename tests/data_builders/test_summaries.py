"""Stage ``summaries`` in a chain: what every part of it reads, and what decides whether it runs again."""

import asyncio
import shutil
import threading
from contextlib import contextmanager
from dataclasses import asdict

import pyarrow.parquet as pq
import pytest

from star_rl.pipeline import chain, runner
from star_rl.pipeline.stage import manifest_of
from star_rl.prompts import PromptOptions, student_prompt
from star_rl.run import Run
from tests.chat import endpoint
from tests.fakes import small_recipe

#: A full prompt, so that a summary is shown.
RULES = ("summaries={by: rules, chunk: 4}", "prompt={profile: full, history: 0, budget: 6000, top: 20}")


@contextmanager
def serving(**options):
    """An endpoint in a thread of its own; yields it."""
    loop, up = asyncio.new_event_loop(), threading.Event()
    served = endpoint.Endpoint(**options)

    async def main():
        async with served:
            up.set()
            await closed.wait()

    closed = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield served
    finally:
        loop.call_soon_threadsafe(closed.set)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def told(run, tmp_path_factory):
    """A copy of the small run, taken on to its SFT set with summaries by rules: its recipe and its folder."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(run, folder / "small")
    loaded = small_recipe(folder, *RULES)
    runner.run(loaded, chain.STAGES, until="sft_set")
    return loaded, folder / "small"


def test_train_valid_and_test_prompts_hold_summaries_that_end_before_their_cutoff(told):
    loaded, folder = told
    world = Run(folder, asdict(loaded))
    figures = manifest_of(folder / "summaries")["figures"]
    assert figures["by"] == "rules" and figures["summaries"] > figures["users"] > 0
    for part in ("train", "valid", "test"):
        tasks = world.tasks(part)
        assert tasks
        for task in tasks:
            case = world.case(task)
            assert case.summary.last < task.cutoff and 1 <= len(case.recent) <= 4
            text = world.messages(task)[1]["content"]
            assert case.summary.text.splitlines()[0] in text and task.ground_truth not in case.summary.text.split()


def test_the_sft_set_and_the_evaluator_show_the_same_summary(told):
    loaded, folder = told
    world = Run(folder, asdict(loaded))
    rows = {row["task_id"]: row for row in pq.read_table(folder / "sft_set" / "sft.parquet").to_pylist()}
    tasks = [task for task in world.tasks("train") if task.task_id in rows]
    assert tasks
    for task in tasks:
        assert rows[task.task_id]["messages"][1]["content"] == world.messages(task)[1]["content"]


def test_no_summaries_leave_prompts_as_they_were(run):
    world = Run.open(run)
    assert manifest_of(run / "summaries")["figures"] == {"summary": "none", "by": "none"}
    assert world.summaries is None
    full = PromptOptions()
    task = world.tasks("test")[0]
    assert "# Summary" not in student_prompt(world.case(task), full).messages[1]["content"]


def test_changed_words_run_the_stage_again_and_a_teacher_s_other_options_do_not(run, tmp_path):
    shutil.copytree(run, tmp_path / "small")

    def states(*options):
        outcomes = runner.run(small_recipe(tmp_path, *options), chain.STAGES, until="summaries")
        return outcomes[-1].state

    rules = "summaries={by: rules, chunk: 4}"
    assert states() == "done" and states(rules) == "ran" and states(rules, "teacher.passes=3") == "done"
    assert states("summaries={by: rules, chunk: 4, words: 30}") == "ran"
    assert states("summaries={by: llm, chunk: 4, words: 30}") == "done"  # of rules, as the teacher is


def test_the_teacher_s_endpoint_writes_them_once_and_a_failed_one_is_asked_again(run, tmp_path):
    shutil.copytree(run, tmp_path / "small")

    def make(served, *more):
        chat = f"{{endpoints: ['{served.url}'], model: m, retries: 0, concurrency: 4}}"
        options = ("summaries={by: llm, chunk: 4}", f"teacher={{backend: llm, options: {{chat: {chat}}}}}", *more)
        (*_, outcome) = runner.run(small_recipe(tmp_path, *options), chain.STAGES, until="summaries")
        return outcome

    def failing(body):
        refused["n"] += 1
        if refused["n"] == 5:
            raise ConnectionResetError
        return endpoint.play(body)

    refused = {"n": 0}
    with serving(answer=failing) as served:
        figures = make(served).manifest["figures"]
        assert figures["incomplete"] and figures["failed"] == {"endpoint": 1}
        asked = len(served.bodies)
        outcome = make(served)
        assert outcome.state == "resumed" and not outcome.manifest["figures"]["incomplete"]
        assert figures["summaries"] < outcome.manifest["figures"]["summaries"]
        assert len(served.bodies) - asked == outcome.manifest["figures"]["summaries"] - figures["summaries"]
        assert make(served).state == "done"
    assert Run.open(tmp_path / "small").summaries is not None
