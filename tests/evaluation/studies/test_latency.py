"""Requests one at a time, and MARS at work on an engine with the rules' words."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from star_rl.errors import StarError
from star_rl.evaluation.methods import Method, Ranking, TaskContext
from star_rl.evaluation.studies import latency, scripted
from star_rl.mars import RuleBackend, RuleOptions, Team, TeamOptions
from star_rl.mars.llm import LlmBackend, LlmOptions, TrainedPlanner
from star_rl.policy.loop import Generation
from star_rl.prompts import Case, PromptOptions
from star_rl.records import Item, Task
from star_rl.report.grid import latex, markdown

IDS = tuple(str(number) for number in range(20))
TASKS = [Task(f"t{n}", "films", "classic", "u", IDS, "7", 100) for n in range(5)]
ITEMS = {name: Item(name, f"Title {name}", ("Drama" if int(name) % 2 else "Noir",)) for name in map(str, range(40))}
HISTORY = [(str(20 + n), n, 5.0) for n in range(12)]


class Engine:
    """Counts what it is asked for; writes nothing."""

    def __init__(self):
        self.asked = []

    async def generate(self, prompt_ids, sampling, request_id):
        self.asked.append((len(prompt_ids), sampling))
        return Generation([0] * sampling["max_tokens"])


class Words:
    """A tokenizer of words."""

    def apply_chat_template(self, messages, tools=None, **options):
        return " ".join(str(message["content"]) for message in messages) + (f" {tools}" if tools else "")

    def encode(self, text, *, add_special_tokens=False):
        return text.split()


class Tools:
    def call(self, name, arguments):
        return SimpleNamespace(text="Among the candidates: 7, 3, 5", ok=True)


def team(engine, trained=False, **options):
    chat = scripted.ScriptedChat(engine, Words(), {"temperature": 0.7})
    rules = RuleBackend(RuleOptions(seed=3))
    backend = scripted.scripted(LlmBackend(chat, LlmOptions()), chat, rules)
    compact = PromptOptions(profile="compact")
    own = scripted.scripted(TrainedPlanner(chat, compact), chat, rules) if trained else None
    return chat, Team(backend, lambda case: scripted.TimedTools(Tools()), TeamOptions(**options), own)


def run(made, number=0):
    return asyncio.run(made.run(Case.of(TASKS[number], HISTORY, ITEMS)))


@pytest.mark.parametrize("planner", [False, True])
def test_mars_makes_all_its_calls_and_ranks_as_the_rules_do(planner):
    engine = Engine()
    chat, made = team(engine, planner)
    outcome = run(made)
    assert outcome.failure is None and sorted(outcome.ranking) == sorted(IDS)
    expected = asyncio.run(
        Team(RuleBackend(RuleOptions(seed=3)), lambda case: Tools(), TeamOptions()).run(
            Case.of(TASKS[0], HISTORY, ITEMS)
        )
    )
    assert outcome.ranking == expected.ranking
    assert [phase.tag for phase in outcome.trajectory.phases] == [phase.tag for phase in expected.trajectory.phases]
    calls = sum(step.model_calls for step in outcome.steps)
    assert calls == len(engine.asked) >= 8  # planner, three experts with a call each, reflector, ranker
    assert not chat.left


def test_the_engine_generates_as_many_tokens_as_the_words_have():
    engine = Engine()
    _, made = team(engine)
    outcome = run(made)
    for _, sampling in engine.asked:
        assert sampling["max_tokens"] == sampling["min_tokens"] > 1 and sampling["ignore_eos"]
    assert sum(sampling["max_tokens"] for _, sampling in engine.asked) == sum(
        s.completion_tokens for s in outcome.steps
    )
    assert sum(length for length, _ in engine.asked) == sum(step.prompt_tokens for step in outcome.steps)


@pytest.mark.parametrize("part, agent", [("tools", ""), ("reflector", "Reflector"), ("planner", "Planner")])
def test_ablations_leave_their_calls_out(part, agent):
    whole, less = Engine(), Engine()
    run(team(whole)[1])
    outcome = run(team(less, **{part: False})[1])
    assert not outcome.failure and agent not in [step.agent for step in outcome.steps]
    if part != "planner":  # without one, all four experts work
        assert len(less.asked) < len(whole.asked)


def test_time_in_tools_is_counted_and_the_scripts_is_not():
    timed = scripted.TimedTools(SimpleNamespace(call=lambda name, arguments: time.sleep(0.01)))
    timed.call("ItemCF", {})
    assert timed.seconds >= 0.01
    chat, made = team(Engine())
    run(made)
    assert chat.aside > 0


class Counting(Method):
    name = "counting"

    def __init__(self):
        self.asked = []

    async def rank(self, context):
        self.asked.append(context.task.task_id)
        assert context.task.ground_truth == ""
        return Ranking(["7"], calls=4, tokens_in=100, tokens_out=50, tool_calls=3, tool_seconds=0.001)


def test_requests_that_warm_up_do_not_count():
    method = Counting()
    found = asyncio.run(latency.measure(method, TASKS, lambda task, sample: TaskContext(task), warm=2))
    assert method.asked == ["t0", "t1", "t0", "t1", "t2", "t3", "t4"]
    row = latency.row("counting", found, TASKS)
    assert (row["n"], row["calls"], row["tokens_in"], row["tokens_out"], row["hr_avg"]) == (5, 4.0, 100.0, 50.0, 100.0)
    assert row["p50"] <= row["p95"] and row["p99"] is None and len(row["seconds"]) == 5
    assert latency.row("counting", found * 20, TASKS * 20)["p99"] >= row["p50"]
    with pytest.raises(StarError, match="no tasks to time"):
        asyncio.run(latency.measure(method, [], lambda task, sample: TaskContext(task)))


def test_the_table_gives_ratios_and_says_whose_words_they_are():
    fast = latency.row("star", [Ranking(["7"], seconds=0.5, calls=4)] * 3, TASKS[:3])
    slow = latency.row("MARS", [Ranking(None, "why", seconds=2.0)] * 3, TASKS[:3], scripted=True)
    assert latency.ratios([fast, slow], "star") == {"MARS": {"ratio": 4.0, "low": 4.0, "high": 4.0}}
    assert (slow["failed"], slow["calls"]) == (3, None)
    table = latency.grid([fast, slow], latency.ratios([fast, slow], "star"), "star")
    text = markdown(table)
    assert "MARS takes 4.0 times as long as star (median, 95 % 4.0 to 4.0)." in text and "(0.0)" in text
    assert "In brackets" in text and "5.2 times" in text and "each token once" in text
    assert "| star | 3 | 0.500 | 0.500 | \u2013 |" in text and "from 100 requests on" in text
    assert r"star & 3 & 0.500 & 0.500 & -- &" in latex(table)


def test_the_interval_of_a_ratio_resamples_tasks():
    fast = latency.row("star", [Ranking(["7"], seconds=s) for s in (1.0, 2.0, 3.0, 4.0, 9.0)], TASKS, prompt="little")
    slow = latency.row("MARS", [Ranking(["7"], seconds=s) for s in (2.0, 4.0, 6.0, 8.0, 9.0)], TASKS)
    one = latency.ratios([fast, slow], "star")["MARS"]
    assert one["ratio"] == 2.0 and 1.0 <= one["low"] < 2.0 <= one["high"] <= 2.0 + 1e-9
    assert "star reads little." in latency.grid([fast, slow], {}, "star").notes


def test_experts_at_once_have_their_own_words_and_wait_for_fewer_calls():
    chat, made = team(engine := Engine(), concurrent=True)
    outcome, alone = run(made), run(team(Engine())[1])
    assert outcome.failure is None and not chat.left and len(engine.asked) == sum(s.model_calls for s in outcome.steps)
    assert outcome.waiting < sum(step.model_calls for step in outcome.steps)
    assert alone.waiting == sum(step.model_calls for step in alone.steps)
