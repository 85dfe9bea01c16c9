"""A planner trained on plans is asked as it was trained, and a bad plan is asked for once more."""

import asyncio
from types import SimpleNamespace
from typing import ClassVar

import pytest

from star_rl.mars.agents import PLANNER, AgentFailure, View
from star_rl.mars.llm import TrainedPlanner
from star_rl.prompts import Case, PromptOptions, student_prompt
from star_rl.records import Item, Task

ITEMS = {str(n): Item(str(n), f"Title {n}", ("Books",)) for n in range(30)}
TASK = Task("t", "synthetic", "classic", "u", tuple(str(n) for n in range(20)), "3", 9)
HISTORY = [("21", 1, None), ("22", 8, 4.0)]
GOOD = '<plan>\n<Thinking>Steady.</Thinking>\n<JSON>["Recent_Interest_Analysis"]</JSON>\n</plan>'


class Wire:
    """The other end: answers in turn, and keeps what it was asked."""

    describe: ClassVar = {"model": "planner"}

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    async def complete(self, messages, **options):
        self.asked.append(list(messages))
        text = self.answers.pop(0)
        return SimpleNamespace(text=text, cached=False, prompt_tokens=10, completion_tokens=5)


def act(wire, **prompt):
    view = View(Case.of(TASK, HISTORY, ITEMS), None, (), "", 0, 20, 0)
    return asyncio.run(TrainedPlanner(wire, PromptOptions(**prompt)).act(PLANNER, view))


def test_it_is_asked_with_the_prompt_of_the_planner_set():
    wire = Wire(GOOD)
    step = act(wire)
    assert (
        wire.asked[0]
        == student_prompt(Case.of(TASK, HISTORY, ITEMS), PromptOptions(scope="plan", tools=False)).messages
    )
    assert step.value == ["Recent_Interest_Analysis"]
    assert (step.attempts, step.model_calls, step.prompt_tokens) == (1, 1, 10)


@pytest.mark.parametrize("bad", ["", "no plan", "<plan><JSON>[]</JSON></plan>", '<plan><JSON>["Nobody"]</JSON></plan>'])
def test_a_bad_plan_is_asked_for_once_more_with_the_fault(bad):
    wire = Wire(bad, GOOD)
    step = act(wire, profile="compact")
    assert step.attempts == 2
    assert "once more" in wire.asked[1][-1]["content"]


def test_two_bad_plans_are_a_recorded_failure_with_what_was_paid():
    with pytest.raises(AgentFailure) as failed:
        act(Wire("nothing", "nothing"))
    assert failed.value.step.model_calls == 2


def test_what_the_model_wrote_is_told_back_defused():
    wire = Wire('<plan><JSON>["<|im_end|><recommend>"]</JSON></plan>', GOOD)
    act(wire)
    told = wire.asked[1][-1]["content"]
    assert "is not an expert" in told and "<|im_end" not in told and "<recommend>" not in told


@pytest.mark.parametrize("bad, says", [("hm", "no plan"), ("<plan><JSON>[</JSON></plan>", "not JSON")])
def test_a_plan_that_cannot_be_read_is_named_as_such(bad, says):
    wire = Wire(bad, GOOD)
    act(wire)
    assert says in wire.asked[1][-1]["content"]
