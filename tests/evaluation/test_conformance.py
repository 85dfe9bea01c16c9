"""Checks that every method passes, whoever made it: a registered one needs an entry in ``OPTIONS`` and no more."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from star_rl.evaluation.evaluate import open_tasks
from star_rl.evaluation.methods import TaskContext, as_ranking, make
from star_rl.evaluation.methods.registry import AGENTS, MAKERS
from star_rl.evaluation.runner import context_of
from tests import fakes

#: What keeps a method small here.
SMALL = "epochs=2:embedding_size=4:batch_size=64"
OPTIONS = dict.fromkeys(MAKERS, "") | {"mf": SMALL, "lightgcn": SMALL, "sasrec": f"{SMALL}:heads=1"}
OPTIONS |= {"star": "in_flight=1:temperature=0"} | dict.fromkeys(AGENTS, "endpoint=http://localhost:1/v1")
OWN = """
class Own:
    name = "own"

    def rank(self, context):
        return sorted(context.task.candidates)

def make(run, seed):
    return Own()
"""


class Chat(fakes.Chat):
    """A served model that names the candidates of whatever task it reads, by id."""

    def __init__(self, options):
        super().__init__()
        self.options = SimpleNamespace(concurrency=2)

    async def complete(self, messages, tools=None, sample=0, **options):
        words = "\n".join(str(message["content"]) for message in messages)
        asked = [task for task in self.tasks if all(f"{name}" in words for name in task.candidates)]
        named = sorted(max(asked, key=lambda task: len(set(task.candidates)), default=self.tasks[0]).candidates)
        if "# Page" in words:  # Agent4Rec: a few items at a time, each with its interest
            page = words.split("# Page")[1]
            named = [{"id": name, "interest": int(name) % 7} for name in {n for t in self.tasks for n in t.candidates}]
            named = {"items": [row for row in named if f"\n{row['id']} |" in page], "feeling": "fine"}
        return SimpleNamespace(text=json.dumps(named), prompt_tokens=9, completion_tokens=4, finish="stop")


@pytest.fixture(params=MAKERS)
def made(request, run, tmp_path, engine, monkeypatch):
    """Make the method anew at every call, and the contexts of a few tasks."""
    opened, seed, tasks = open_tasks(run, limit=4)
    contexts = [context_of(opened)(task, 0) for task in tasks.tasks]
    said = json.dumps(sorted(set.intersection(*(set(one.task.candidates) for one in contexts))) or ["1"])
    engine(f"<recommend>\n<Thinking>So.</Thinking>\n<JSON>{said}</JSON>\n</recommend>")
    monkeypatch.setattr("star_rl.chat.ChatClient", Chat)
    monkeypatch.setattr(Chat, "tasks", tasks.tasks, raising=False)
    (tmp_path / "own.py").write_text(OWN)
    name = f"python:{tmp_path}/own.py:make" if request.param == "python" else request.param
    spec = f"{name}:{OPTIONS[request.param]}".rstrip(":")
    return (lambda: make(spec, opened, seed, tmp_path)), contexts


def answers(method, contexts):
    async def ask():
        async with method as opened:
            return [as_ranking(await opened.rank(context)) for context in contexts]

    return asyncio.run(ask())


def test_it_answers_with_ids_that_are_each_named_once(made):
    method, contexts = made
    for found, context in zip(answers(method(), contexts), contexts, strict=True):
        assert not found.failure and found.ids and len(set(found.ids)) == len(found.ids)
        assert method().name == "star" or set(found.ids) <= set(context.task.candidates)


def test_equal_settings_give_equal_answers_in_whatever_order_tasks_are_asked(made):
    """A cached answer stands for a new one, and a resumed evaluation equals an uninterrupted one."""
    method, contexts = made
    first, backward = answers(method(), contexts), answers(method(), contexts[::-1])
    assert [one.ids for one in first] == [one.ids for one in backward[::-1]]


def test_the_place_of_the_candidates_tells_nothing(made):
    """In official tasks their order betrays the truth."""
    method, contexts = made
    turned = [replace(one, task=replace(one.task, candidates=one.task.candidates[::-1])) for one in contexts]
    places = [
        asked.task.candidates.index(found.ids[0])
        for side in (contexts, turned)
        for asked, found in zip(side, answers(method(), side), strict=True)
        if found.ids[0] in asked.task.candidates
    ]
    assert method().name == "star temperature=0" or len(set(places)) > 1


def test_a_user_that_nobody_knows_is_answered(made):
    method, contexts = made
    strange = TaskContext(replace(contexts[0].task, task_id="new", user_id="nobody"), [], contexts[0].items)
    (found,) = answers(method(), [strange])
    assert not found.failure and found.ids


def test_its_settings_are_plain_data_and_equal_for_equal_methods(made):
    method, _ = made
    first, again = (json.dumps(method().settings, sort_keys=True) for _ in range(2))
    assert first == again and method().name
