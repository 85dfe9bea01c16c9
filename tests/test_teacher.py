"""The teacher of a recipe: its options are checked, and a language model behind it has to answer before any work."""

import asyncio
from dataclasses import asdict

import pytest

from star_rl.errors import StarError
from star_rl.pipeline.options import Recipe
from star_rl.prompts import PromptOptions
from star_rl.teacher import chat_options, open_teacher


class FakeWorld:
    """What open_teacher asks of a world."""

    prompt, length = PromptOptions(top=5), len

    def toolbox(self, case):
        raise AssertionError("no task is worked on here")


def config(**teacher):
    made = asdict(Recipe())
    made["teacher"] |= teacher
    return made


def opened(tmp_path, made):
    async def open_it():
        async with open_teacher(FakeWorld(), made, 7, tmp_path / "cache.sqlite") as teacher:
            return teacher

    return asyncio.run(open_it())


def test_the_rules_are_seeded_by_the_run_and_ranked_as_the_prompt_says(tmp_path):
    teacher = opened(tmp_path, config())
    assert (teacher.model, teacher.clients, teacher.in_flight) == ("rules", (), 1)
    assert teacher.team.describe["team"]["top"] == 5
    assert teacher.team.describe["backend"]["seed"] == 7


@pytest.mark.parametrize(
    "setting, part", [("no_tools", "tools"), ("no_planner", "planner"), ("no_reflector", "reflector")]
)
def test_an_ablated_set_has_a_teacher_without_that_part(tmp_path, setting, part):
    made = config()
    made["sft_set"]["setting"] = setting
    assert opened(tmp_path, made).team.describe["team"][part] is False


@pytest.mark.parametrize(
    "teacher, says",
    [
        ({"options": {"nope": 1}}, "teacher.options.nope is not known"),
        ({"options": {"rules": {"luck": 1}}}, "teacher.options.rules.luck is not known"),
        ({"backend": "llm"}, "teacher.options.chat names no endpoint"),
        ({"backend": "llm", "options": {"chat": {"endpoint": "x"}}}, "teacher.options.chat.endpoint is not known"),
        (
            {"backend": "llm", "options": {"chat": {"endpoints": "http://127.0.0.1:9/v1", "model": "m"}}},
            "127.0.0.1:9",
        ),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path, teacher, says):
    with pytest.raises(StarError, match=says):
        opened(tmp_path, config(**teacher))


def test_a_recipe_names_a_host_and_the_fields_of_its_requests():
    values = {"preset": "openai", "model": "m", "request": {"drop": ["top_p"], "extra": {"reasoning_effort": "low"}}}
    made = chat_options("teacher.options.chat", values)
    assert made.endpoints == ("https://api.openai.com/v1",) and made.key_variable == "OPENAI_API_KEY"
    assert made.request.apply({"max_tokens": 5, "top_p": 1}) == {"max_completion_tokens": 5, "reasoning_effort": "low"}
    assert made.describe["reasoning_effort"] == "low" and "request" not in made.describe
    for wrong, says in (
        ({"preset": "vllm"}, "names no endpoint"),
        ({**values, "request": 3}, "options.chat.request=3"),
    ):
        with pytest.raises(StarError, match=says):
            chat_options("teacher.options.chat", wrong)
