"""The memory of a run: what is played, what is revealed, and what prompts, SFT set and reflections are made of it."""

import asyncio
import json
import shutil
from dataclasses import asdict
from functools import partial

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from star_rl.data_builders.grpo_set import GrpoSetOptions, build_grpo
from star_rl.errors import StarError
from star_rl.evaluation.methods import make
from star_rl.evaluation.runner import context_of
from star_rl.mars import RuleBackend
from star_rl.mars.agents import REWRITER, AgentFailure, Step
from star_rl.mars.notes import read_notes
from star_rl.memory.follow_up import REQUIRED, FollowUp, follow_up_of, messages_of, reflections
from star_rl.memory.play import counts_of, draw, play
from star_rl.memory.student import NotesByStudent
from star_rl.own import about
from star_rl.pipeline import chain, runner
from star_rl.pipeline.stage import manifest_of
from star_rl.policy.loop import Budget, rollout
from star_rl.prompts import Case
from star_rl.records import PARTS
from star_rl.rewards import starec
from star_rl.run import Run
from star_rl.tools import ToolBox
from star_rl.trajectory import AGAIN, answer_faults, parse, ranking
from tests.fakes import Engine, Letters, make_run, small_recipe

FAST = ("sft_set={setting: fast, within: 5}", "memory.interactions=3", "prompt={profile: compact, history: 8, top: 10}")


@pytest.fixture(scope="module")
def fast(run, tmp_path_factory):
    """A copy of the small run with memories, taken on to its SFT set."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(run, folder / "small")
    loaded = small_recipe(folder, *FAST)
    runner.run(loaded, chain.STAGES, until="sft_set")
    return Run(folder / "small", asdict(loaded))


def chosen_with_ids(world, task):
    return {event[0] for event in world.histories.of_user(task.user_id) if event[1] >= task.cutoff}


def test_a_recipe_without_memories_plays_nothing(run):
    assert manifest_of(run / "memory")["figures"] == {"summary": "none"}


def test_a_memory_needs_the_setting_that_shows_it(run, tmp_path):
    shutil.copytree(run, tmp_path / "small")
    with pytest.raises(StarError, match=r"memory.interactions=3 with sft_set.setting=full"):
        runner.run(small_recipe(tmp_path, "memory.interactions=3"), chain.STAGES, until="memory")


@pytest.mark.parametrize(
    "lengths, interactions, played",
    [([10], 3, [8, 9, 10]), ([2], 5, [2]), ([1], 5, []), ([], 5, []), ([10, 12], 2, [9, 10, 11, 12])],
)
def test_the_last_interactions_before_each_task_are_played(lengths, interactions, played):
    assert counts_of(lengths, interactions) == played


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 99),
    test=st.sampled_from(["users", "last"]),
    scenario=st.sampled_from(["classic", "auto"]),
    names=st.sampled_from(["ids", "slots"]),
)
def test_nothing_at_or_after_a_cutoff_was_revealed(tmp_path_factory, seed, test, scenario, names):
    """Of any split: what an agent ever read of a user, and what a task's prompt shows, ends before the cutoff."""
    split = f"split.options={{test: {test}, scenario: {scenario}, train_per_user: 2, max_test: 12, max_valid: 4}}"
    folder = make_run(tmp_path_factory.mktemp("world"), *FAST, split, f"prompt.names={names}", f"seed={seed}")
    world = Run.open(folder)
    shown = 0
    for part in PARTS:
        for task in world.tasks(part):
            later, history = chosen_with_ids(world, task), world.history(task)
            memory = world.memories.of(task.user_id, history)
            assert memory is None or memory.last < task.cutoff
            shown += memory is not None
            for count in range(2, len(history) + 1):
                if played := world.memories.played(task.user_id, history[:count]):
                    assert played.last == history[count - 1][1] < task.cutoff
                    assert later & set(played.candidates) <= {event[0] for event in history}
    assert shown


def test_a_later_memory_is_refused(fast):
    task = fast.tasks("test")[0]
    memory = fast.memories.of(task.user_id, fast.history(task))
    early = type(task)(**{**asdict(task), "candidates": task.candidates, "cutoff": memory.last})
    with pytest.raises(StarError, match=r"the memory of user .* run the stage memory again"):
        Case.of(early, [], fast.items, memory=memory)


def test_the_prompt_shows_the_notes_and_the_play_can_be_made_again(fast):
    task = fast.tasks("test")[0]
    history = fast.history(task)
    memory = fast.memories.of(task.user_id, history)
    assert memory.text.startswith("Likes: ") and memory.text in fast.messages(task)[1]["content"]
    drawn = draw(fast, task.user_id, history, counts_of([len(history)], 3), 7)

    async def again():
        backend = RuleBackend(popular=fast.popular)
        return [found async for found in play(backend, fast, task, history, drawn)]

    made = asyncio.run(again())
    assert [count for count, _ in made] == list(drawn) and made[-1][1] == memory
    assert [one.before for _, one in made] == ["", *(one.text for _, one in made[:-1])]
    touched = {event[0] for event in fast.histories.of_user(task.user_id)}
    for count, candidates in drawn.items():
        assert len(set(candidates)) == 20 and touched & set(candidates) == {history[count - 1][0]}


def test_a_play_without_an_answer_changes_nothing_and_a_lost_endpoint_ends_it(fast):
    task = fast.tasks("test")[0]
    history = fast.history(task)
    drawn = draw(fast, task.user_id, history, counts_of([len(history)], 3), 7)

    class Failing(RuleBackend):
        kind, left = "malformed", 1

        async def act(self, agent, view):
            if agent is REWRITER and self.left:
                self.left -= 1
                raise AgentFailure(self.kind, "no", Step(agent.name, agent.tag))
            return await super().act(agent, view)

    async def played(backend):
        return [count async for count, _ in play(backend, fast, task, history, drawn)]

    assert asyncio.run(played(Failing(popular={}))) == list(drawn)[1:]
    lost = Failing(popular={})
    lost.kind = "endpoint"
    with pytest.raises(AgentFailure):
        asyncio.run(played(lost))


def test_the_sft_set_holds_rankings_and_reflections(fast):
    rows = pq.read_table(fast.folder / "sft_set" / "sft.parquet").to_pylist()
    roles = [[message["role"] for message in row["messages"]] for row in rows]
    slow = [row for row, found in zip(rows, roles, strict=True) if len(found) == 5]
    assert slow and {len(found) for found in roles} == {3, 5}
    for row in slow:
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        assert answer_faults(answers, ("reflection",)) == []
        notes = parse(answers[0]).phases[0].result.value["preferences"]
        assert row["messages"][3]["content"].startswith(f"{notes}\nCandidates:\n")
        assert len(ranking(parse(answers[1]))) == 10
    audit = json.loads((fast.folder / "sft_set" / "audit.json").read_text())
    assert audit["dropped"]["fell"] > 0 and audit["dropped"]["miss"] > 0


def test_a_reflection_asks_for_notes_then_for_the_ranking_of_its_task(fast):
    task = fast.tasks("train")[0]
    (made,) = reflections(fast, [task])
    history = fast.history(task)
    asked = messages_of(fast, made)[1]["content"]
    assert asked.endswith("Reflect.") and f"Chosen:\n{history[-1][0]} " in asked
    assert task.ground_truth not in asked.split() and follow_up_of(fast, task) is None
    query = follow_up_of(fast, made)
    step = FollowUp(None)
    step.reset({**about(made.task_id, made.user_id, made.candidates), "follow_up": query})
    said = step.step('<reflection>\n<JSON>{"preferences": "Likes: <plan> A."}</JSON>\n</reflection>')
    assert said.startswith("Likes: \u2039plan> A.\nCandidates:\n") and said.endswith("Rank.")
    assert step.step("<recommend><JSON>[]</JSON></recommend>") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "words",
        "<reflection><JSON>[]</JSON></reflection>",
        '<reflection><JSON>{"preferences": 3}</JSON></reflection>',
    ],
)
def test_a_reflection_without_notes_gets_no_ranking(text):
    step = FollowUp(None)
    step.reset({"follow_up": "{notes}\nRank."})
    assert step.step(text) is None


def test_a_ranking_task_has_no_follow_up():
    step = FollowUp(None)
    step.reset(about("train-1", "u", ["a"]))
    assert step.step('<reflection><JSON>{"preferences": "x"}</JSON></reflection>') is None


def spoken(task, query, *said):
    """Run a rollout in which the model says these turns; return it and STARec's score of it."""
    step = FollowUp(None)
    step.reset({**about(task.task_id, task.user_id, task.candidates), "follow_up": query})
    budget = Budget(response_tokens=4096, turns=2)
    toolbox = ToolBox(None, task.candidates)
    made = asyncio.run(rollout(Engine(*said), Letters(), [11], toolbox, budget, {}, environment=step.step))
    info = {"required": REQUIRED if query else AGAIN, "candidates": list(task.candidates), "answers": made.answers}
    return made, starec.compute_score(task.source, made.model_text, task.ground_truth, info)["score"]


NOTES = '<reflection>\n<JSON>{"preferences": "Likes: A."}</JSON>\n</reflection>'


def test_a_reflection_is_rewarded_by_the_ranking_after_it_and_both_turns_are_trained_on(fast):
    task = fast.tasks("train")[0]
    (made,) = reflections(fast, [task])
    order = sorted(task.candidates, key=lambda item: item != task.ground_truth)
    ranked = [f"<recommend>\n<JSON>{json.dumps(given)}</JSON>\n</recommend>" for given in (order, order[::-1])]
    query = follow_up_of(fast, made)
    best, score = spoken(made, query, NOTES, ranked[0])
    assert score == 1.0 and best.stop == "answered" and best.counts["user_turns"] == 1
    said = [message["content"] for message in best.messages]
    assert said[1] == query.replace("{notes}", "Likes: A.") and said[0] == NOTES
    trained = sum(len(Letters().encode(text)) + 1 for text in (said[0], said[2]))
    assert sum(best.response_mask) == trained < len(best.response_ids)
    assert spoken(made, query, NOTES, ranked[1])[1] == -0.5
    assert spoken(made, query, "no notes", ranked[0])[1] == -1.0, "no notes, no ranking"
    alone, score = spoken(task, None, ranked[0])
    assert score == 1.0 and alone.counts["user_turns"] == 0


def test_a_grpo_set_holds_rankings_and_reflections(fast):
    tasks = fast.tasks("train")[:4]
    tasks += reflections(fast, tasks)
    texts = {task.task_id: f'<recommend><JSON>["{task.ground_truth}"]</JSON></recommend>' for task in tasks}
    records = [
        {"task_id": name, "sample": n, "stop": "answered", "model_text": text if n % 2 else ""}
        for name, text in texts.items()
        for n in range(8)
    ]
    options = GrpoSetOptions(fill=True, required=AGAIN, top=10)
    rows, _ = build_grpo(records, tasks, partial(messages_of, fast), options, follow_up=partial(follow_up_of, fast))
    assert len(rows) == len(tasks) == 8
    for row in rows:
        info, asked = row["extra_info"], row["prompt"][-1]["content"]
        slow = info["task_id"].endswith("/reflect")
        assert info["required"] == ["reflection" if slow else "recommend"] and asked.endswith(
            "Reflect." if slow else "Rank."
        )
        assert (info["follow_up"] or "{notes}").startswith("{notes}") and bool(info["follow_up"]) == slow


@pytest.mark.parametrize("spec", ["star:sft:memory=all", "teacher:memory=all"])
def test_an_unknown_memory_is_refused(fast, tmp_path, spec):
    (fast.folder / "sft" / "final").mkdir(parents=True, exist_ok=True)
    (fast.folder / "sft" / "final" / "config.json").write_text("{}")
    with pytest.raises(StarError, match=r"memory=all"):
        make(spec, fast, 7, tmp_path)


def test_the_rules_rank_with_their_notes_and_without(fast, tmp_path):
    task = fast.tasks("test")[0]
    context = context_of(fast)(task, 0)

    async def answer(spec):
        async with make(spec, fast, 7, tmp_path) as method:
            return (await method.rank(context)).trace["messages"][0]["content"]

    assert context.memory.text.startswith("Likes: ")
    shown, hidden = (asyncio.run(answer(spec)) for spec in ("teacher", "teacher:memory=none"))
    assert f"{read_notes(context.memory.text)[0][0]} first." in shown and "first." in hidden


def test_a_student_keeps_its_own_notes(fast):
    task = fast.tasks("test")[0]
    history = fast.history(task)
    drawn = draw(fast, task.user_id, history, counts_of([len(history)], 2), 7)
    asked = []

    async def write(case, messages):
        asked.append(messages[-1]["content"])
        if asked[-1].endswith("Rank."):
            return f"<recommend>\n<JSON>{json.dumps(list(case.candidates)[:10])}</JSON>\n</recommend>"
        return f'<reflection>\n<JSON>{{"preferences": "Note {len(asked)}."}}</JSON>\n</reflection>'

    async def played():
        backend = NotesByStudent(write, fast.prompt, fast.length)
        return [memory.text async for _, memory in play(backend, fast, task, history, drawn)]

    assert asyncio.run(played()) == ["Note 2.", "Note 4."]
    assert "\nnone\n" in asked[0] and "\nNote 2.\n" in asked[2]
