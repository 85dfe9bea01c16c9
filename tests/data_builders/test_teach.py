"""The stage ``teach``: what is checked before anything is paid for."""

from types import SimpleNamespace

import pytest

from star_rl.errors import StarError
from star_rl.prompts import PromptOptions, estimate_tokens
from star_rl.run import Run
from tests.fakes import World


@pytest.fixture(scope="module")
def world():
    return World(tasks=6)


def run(world, prompt):
    """A run's part that the check reads."""
    return SimpleNamespace(prompt=prompt, known_tasks=world.tasks, case=world.case, length=estimate_tokens)


def test_tasks_over_the_budget_are_named_before_teaching(world):
    with pytest.raises(StarError, match=rf"6 task\(s\) do not fit prompt.budget, first task {world.tasks[0].task_id}"):
        Run.check_prompts(run(world, PromptOptions("full", budget=500)))


def test_tasks_within_the_budget_pass(world):
    Run.check_prompts(run(world, PromptOptions("full", budget=9000)))
    Run.check_prompts(run(world, PromptOptions("compact", budget=500)))
