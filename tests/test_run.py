"""What a run's data tell of a task: users' attributes reach every method that may read them, and nothing else does."""

import asyncio
import json
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from star_rl.baselines.agents import AGENTS
from star_rl.errors import StarError
from star_rl.evaluation import runner as evaluation_runner
from star_rl.evaluation.evaluate import open_tasks, seal
from star_rl.evaluation.methods.agents import Workflow
from star_rl.evaluation.runner import context_of
from star_rl.prompts import PromptOptions, Summary, estimate_tokens, student_prompt
from star_rl.prompts.agents import Brief, agent_messages
from star_rl.records import USERS, UserTable, read_table, write_table
from star_rl.run import Run
from star_rl.student.tokenizer import train_tokenizer
from tests import fakes


class Chat(fakes.Chat):
    """Knows the answer for one user; keeps what it is asked."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    async def complete(self, messages, tools=None, sample=0, **options):
        self.asked.append(messages)
        answer = self.task.ground_truth if self.task.user_id in messages[0]["content"] else "nothing"
        text = f"I think.</think>Weighed well. ['{answer}']"
        return SimpleNamespace(text=text, prompt_tokens=9, completion_tokens=4, finish="stop")


def test_a_users_attributes_are_found_and_those_of_others_are_not():
    rows = [("a", {}), ("b", {"age": 33, "job": "cook"}), ("c", {"age": 4})]
    users = UserTable(pa.Table.from_pylist([{"user_id": u, "attributes": json.dumps(t)} for u, t in rows], USERS))
    assert users("b") == {"age": 33, "job": "cook"} and users("a") == users("nobody") == {}


def test_agents_and_mars_are_shown_the_users_profile(run, tmp_path):
    world, _, tasks = open_tasks(run)
    assert world.case(tasks.tasks[0]).user == {}  # the synthetic source knows nothing of its users
    own = [{"user_id": task.user_id, "attributes": json.dumps({"job": f"cook {task.user_id}"})} for task in tasks.tasks]
    world.__dict__["users"] = UserTable(pa.Table.from_pylist(own, USERS))
    context, task = context_of(world), tasks.tasks[0]
    chat = Chat(task)
    case = context(task, 0).case()
    assert case.user == world.case(task).user == {"job": f"cook {task.user_id}"}
    assert case == world.case(task) and not any(entry.text for entry in case.history)
    method = Workflow(AGENTS["cot"](chat), 1, chat, {"remark": AGENTS["cot"](chat).remark})
    asyncio.run(evaluation_runner.run_method(method, tasks.tasks, context, tmp_path / "answers"))
    asked = zip(tasks.tasks, chat.asked, strict=True)
    assert all(f"job: cook {one.user_id}" in messages[0]["content"] for one, messages in asked)
    asked = agent_messages("Ranker", Brief(case), True)
    assert any(f"cook {task.user_id}" in message["content"] for message in asked)
    scored = seal(tmp_path, world, tasks, 1, 200, 0)
    (remark,) = (words for words in scored["caveats"] if words.startswith("CoTAgent (mended) is without what"))
    assert "500 tokens cut the reasoning off" in remark and scored["methods"][0]["name"] == "CoTAgent (mended)"
    page = (tmp_path / "report.html").read_text()
    assert "Weighed well." in page and "Faults" not in page and "500 tokens cut the reasoning off" in page


def test_the_tables_users_are_read(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    table = pa.Table.from_pylist([{"user_id": "u", "attributes": '{"age": 3}'}], USERS)
    write_table(tmp_path / "run" / "tables" / "users.parquet", table, "users")
    assert open_tasks(tmp_path / "run")[0].users("u") == {"age": 3}


FULL = asdict(PromptOptions())
NAMES = ("item_id", "timestamp")


def with_reviews(run, folder):
    """A copy of the run with a review of every interaction, and facts about every user."""
    shutil.copytree(run, folder)
    rows = read_table(folder / "tables", "interactions")
    texts = [f"On {stamp} I chose {item}." for item, stamp in zip(*(rows[n].to_pylist() for n in NAMES), strict=True)]
    rows = rows.set_column(4, "text", pa.array(texts, pa.string()))
    write_table(folder / "tables" / "interactions.parquet", rows, "interactions")
    users = pc.unique(rows["user_id"]).to_pylist()
    told = pa.Table.from_pylist([{"user_id": user, "attributes": '{"job": "cook"}'} for user in users], USERS)
    write_table(folder / "tables" / "users.parquet", told, "users")
    opened = open_tasks(folder)[0]
    return Run(folder, {**opened.config, "prompt": FULL})


def test_all_parts_read_one_prompt_with_facts_reviews_and_summary(run, tmp_path):
    world = with_reviews(run, tmp_path / "run")
    task = world.tasks("test")[0]
    history = world.history(task)
    world.__dict__["summaries"] = SimpleNamespace(
        of=lambda user, seen: Summary(f"Of {user}.", 2, seen[0][1], seen[1][1]) if seen == history else None
    )
    messages = world.messages(task)
    text = messages[1]["content"]
    assert "job: cook" in text and f"Of {task.user_id}." in text
    for item, stamp, _ in history[2:]:
        assert f'| said: "On {stamp} I chose {item}."' in text
    assert f"On {task.cutoff} " not in text and text.count("| said: ") == len(history) - 2
    context = context_of(world)(task, 0)
    assert student_prompt(context.case(), world.prompt, world.length).messages == messages
    assert set(context.texts) == {event[:2] for event in history}  # none of a later interaction


def test_only_a_strategy_that_ignores_the_evidence_is_said_to_be_inferior(run):
    opened = Run.open(run)
    assert not any("inferior" in words for words in opened.caveats(True))
    rules = {"strategies": {"users": 1.0, "category": 0.5}}
    habit = {**opened.config, "teacher": {**opened.config["teacher"], "options": {"rules": rules}}}
    assert sum("inferior" in words for words in Run(run, habit).caveats(True)) == 1
    assert not any("rules" in words for words in Run(run, habit).caveats(False))


def test_reviews_of_a_user_without_a_task_are_read_when_asked_for(run, tmp_path):
    world = with_reviews(run, tmp_path / "run")
    busy = {task.user_id for task in world.known_tasks}
    idle = next(user for user in pc.unique(world.visible["user_id"]).to_pylist() if user not in busy)
    events = world.histories.of_user(idle)
    assert world.texts(idle, events[:1]) == {events[0][:2]: f"On {events[0][1]} I chose {events[0][0]}."}
    assert world.texts("nobody", events) == {}


def test_tokens_are_counted_by_the_students_own_tokenizer(run, tmp_path):
    world = open_tasks(run)[0]
    assert world.length is estimate_tokens
    train_tokenizer(["<|im_start|>user\nsome words<|im_end|>\n"] * 9, ["a"], tmp_path, bpe_size=300)
    for path, counts in ((str(tmp_path), True), ("Qwen/Qwen3-8B", False)):
        other = Run(run, {**world.config, "student": {"path": path}})
        assert (other.length is not estimate_tokens) == counts and other.length("some words") > 1


def test_tools_and_an_environment_of_ones_own_reach_prompt_schemas_and_toolbox(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Titles:\n"
        "    parameters = {'type': 'object', 'properties': {'id': {'type': 'string'}}, 'required': ['id']}\n"
        "    function = {'name': 'Title', 'description': 'Name an item.', 'parameters': parameters}\n"
        "    schema = {'type': 'function', 'function': function}\n"
        "    def __init__(self, data): self.data = data\n"
        "    def __call__(self, id): return self.data.items[id].title\n"
        "class User:\n"
        "    def __init__(self, data): self.data = data\n"
        "    def reset(self, task): self.task = task\n"
        "    def step(self, text): return f'{text} {sorted(self.task)} {self.data.visible.num_rows > 0}'\n"
        "class Nosy(Titles):\n"
        "    def __init__(self, data): data.histories\n"
    )
    plain = Run.open(run)
    names = {"own": [f"{tmp_path}/mine.py:Titles"]}, {"environment": f"{tmp_path}/mine.py:User"}
    sections = {name: {**plain.config[name], **more} for name, more in zip(("tools", "loop"), names, strict=True)}
    world = Run(run, {**plain.config, **sections, "prompt": {**plain.config["prompt"], "profile": "full"}})
    task = world.tasks("test")[0]
    assert [schema["function"]["name"] for schema in world.tools] == ["UserCF", "ItemCF", "Title"]
    assert "Further tools: Title - Name an item." in world.messages(task)[0]["content"]
    item = task.candidates[0]
    assert world.toolbox(world.case(task)).call("Title", {"id": item}).text == world.items[item].title
    assert world.environment(task)("so") == "so ['candidates', 'follow_up', 'task_id', 'user_id'] True"
    assert plain.environment(task) is None and len(plain.tools) == 2
    lacking = Run(run, {**world.config, "sft_set": {**plain.config["sft_set"], "setting": "no_tools"}})
    assert lacking.tools is None and "Further" not in lacking.messages(task)[0]["content"]
    nosy = Run(run, {**world.config, "tools": {**sections["tools"], "own": [f"{tmp_path}/mine.py:Nosy"]}})
    with pytest.raises(StarError, match="no attribute 'histories'"):
        nosy.toolbox(nosy.case(task))
