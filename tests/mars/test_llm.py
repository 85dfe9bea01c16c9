"""The language-model backend over HTTP, against an endpoint that plays the agents, well and badly."""

import asyncio
import json
import threading
from collections import Counter
from dataclasses import replace

import pytest

from star_rl.chat import ChatClient, ChatOptions, ChatReply
from star_rl.errors import StarError
from star_rl.mars import Team, identity_of, read_runs, teach
from star_rl.mars.llm import LlmBackend, LlmOptions, read_answer
from star_rl.own import OwnTool
from star_rl.prompts import PromptOptions, Summary, student_prompt
from star_rl.prompts.agents import prompts_version
from star_rl.tools import ToolBox
from star_rl.trajectory import Response, faults, from_messages, parse, render, to_messages
from tests.chat import endpoint
from tests.fakes import World


def client(server, **more):
    chosen = {"model": "m", "backoff": 0.01, "timeout": 1.0, "retries": 4, **more}
    return ChatClient(ChatOptions((server.url,), **chosen))


def run_one(world, task=0, options=None, answer=None, team=None, prompt=None):
    async def main():
        async with (
            endpoint.Endpoint(answer=answer or endpoint.play) as server,
            client(server) as chat,
        ):
            backend = LlmBackend(chat, options or LlmOptions(), prompt)
            outcome = await world.team(backend, **(team or {})).run(world.case(world.tasks[task]))
            return outcome, server.bodies

    return asyncio.run(main())


def test_whole_team_over_http(world):
    outcome, bodies = run_one(world)
    assert outcome.failure is None
    names = [(step.agent, step.round) for step in outcome.steps]
    assert names == [
        ("Planner", 0),
        ("User_Profile_Summary", 0),
        ("Historical_Interest_Analysis", 0),
        ("Recent_Interest_Analysis", 0),
        ("Reflector", 0),
        ("User_Profile_Summary", 1),
        ("Ranker", 0),
    ]
    text = render(outcome.trajectory)
    assert render(parse(text)) == text
    assert render(from_messages(to_messages(outcome.trajectory))) == text
    assert faults(parse(text), own_text=False) == []
    assert sum(len(step.phase.calls) for step in outcome.steps) == 8
    assert outcome.ranking == list(world.case(world.tasks[0]).candidates)
    assert "tools" not in bodies[0] and "tools" in bodies[1]
    rerun = next(b for b in bodies if "came back" in b["messages"][1]["content"])
    assert "Say more." in rerun["messages"][1]["content"] and "likes drama" in rerun["messages"][1]["content"]


def test_titles_reach_the_model_defused(world):
    _, bodies = run_one(world)
    words = json.dumps([body["messages"] for body in bodies])
    assert "<recommend>" not in words and "</tool_response>" not in words and "<|im_end|>" not in words


@pytest.mark.parametrize("part", ["planner", "reflector", "tools"])
def test_each_part_can_be_switched_off(world, part):
    outcome, bodies = run_one(world, team={part: False})
    text = render(outcome.trajectory)
    assert outcome.failure is None
    assert ("<plan>" in text) == (part != "planner")
    assert ("<reflection>" in text) == (part != "reflector")
    assert ("<tool_call>" in text) == (part != "tools")
    if part == "planner":
        assert "<interest_divergence>" in text
    if part == "tools":
        assert not any("tools" in body for body in bodies)
        assert not any("UserCF" in body["messages"][0]["content"] for body in bodies)


def test_planner_endpoint_of_its_own(world):
    async def main():
        async with (
            endpoint.Endpoint() as server,
            endpoint.Endpoint() as other,
            client(server) as chat,
            client(other) as planner,
        ):
            team = world.team(LlmBackend(chat), LlmBackend(planner))
            outcome = await team.run(world.case(world.tasks[0]))
            assert outcome.failure is None and other.seen["calls"] == 1
            assert "planner" in team.describe

    asyncio.run(main())


def test_malformed_answer_is_asked_for_once_more(world):
    count = Counter()

    def answer(body):
        agent = endpoint.agent_of(body["messages"])
        count[agent] += 1
        if agent == "Ranker" and count[agent] == 1:
            return {"content": endpoint.wrapped(["i1", "i1"])}
        return endpoint.play(body)

    outcome, bodies = run_one(world, answer=answer)
    assert outcome.failure is None and outcome.steps[-1].attempts == 2
    assert "cannot be used" in bodies[-1]["messages"][-1]["content"]
    assert render(outcome.trajectory).count("<recommend>") == 1


@pytest.mark.parametrize("kind", ["prose", "empty", "broken_json", "foreign_ids"])
def test_the_second_question_shows_the_tags_as_they_are_to_be_written(world, kind):
    turn = Counter()

    def answer(body):
        turn["n"] += 1
        return endpoint.spoil(kind, body) if turn["n"] == 1 else endpoint.play(body)

    _, bodies = run_one(world, answer=answer)
    told = bodies[1]["messages"][-1]["content"]
    assert "cannot be used" in told and "<JSON> .. </JSON>" in told
    assert "\u2039" not in told


def test_malformed_twice_is_a_recorded_failure(world):
    def answer(body):
        agent = endpoint.agent_of(body["messages"])
        return endpoint.spoil("prose", body) if agent == "Reflector" else endpoint.play(body)

    outcome, _ = run_one(world, answer=answer)
    assert str(outcome.failure).startswith("malformed: Reflector") and outcome.ranking == []
    assert outcome.steps[-1].agent == "Reflector" and outcome.steps[-1].attempts == 2
    assert outcome.steps[-1].model_calls == 2


def with_search(world, run, seconds=1.0):
    """Run a team whose experts call a tool of one's own; return its outcome and the requests."""
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    function = {"name": "Search", "description": "Search it all.", "parameters": parameters}
    tool = OwnTool({"type": "function", "function": function}, run)

    def answer(body):
        made = endpoint.play(body)
        if made.get("tool_calls"):
            made["tool_calls"] = [endpoint.call("Search", {"query": "c1"})]
        return made

    def tools(case):
        return ToolBox(world.store, case.candidates, own={"Search": tool})

    async def main():
        async with endpoint.Endpoint(answer=answer) as server, client(server) as chat:
            prompt = PromptOptions(own=(json.dumps(tool.schema),))
            backend = LlmBackend(chat, LlmOptions(tool_seconds=seconds), prompt)
            await backend.ready(tools=True)
            return await Team(backend, tools).run(world.case(world.tasks[0])), server.bodies

    return asyncio.run(main())


def test_a_tool_of_ones_own_is_offered_and_answers(world):
    outcome, bodies = with_search(world, lambda query: f"about {query}")
    assert outcome.failure is None
    assert {block.text for step in outcome.steps for block in step.blocks if isinstance(block, Response)} == {
        "about c1"
    }
    asked = next(body for body in bodies if body.get("tools"))
    assert [one["function"]["name"] for one in asked["tools"]] == ["UserCF", "ItemCF", "Search"]
    assert "Further tools: Search - Search it all." in asked["messages"][0]["content"]


def test_a_tool_of_ones_own_that_fails_or_hangs_is_no_fault_of_the_model(world):
    release = threading.Event()
    for run, words in ((lambda query: 1 / 0, "ZeroDivisionError"), (lambda query: release.wait(), "0.05 s")):
        failure = with_search(world, run, 0.05)[0].failure
        assert failure.kind == "endpoint" and "Search" in failure.message and words in failure.message
    release.set()


def test_calls_without_end_meet_the_budget(world):
    def answer(body):
        return {"content": "", "tool_calls": [endpoint.call("ItemCF", {"item_id": "i1"})] * 30}

    outcome, bodies = run_one(world, answer=answer, options=LlmOptions(turns=3, calls=2), team={"planner": False})
    assert str(outcome.failure).startswith("calls: User_Profile_Summary")
    answers = [m["content"] for m in bodies[-2]["messages"] if m["role"] == "tool"]
    assert sum("too many calls" in a for a in answers) == len(answers) - 2
    assert bodies[-2]["tools"] and bodies[-2]["tool_choice"] == "none"
    roles = [message["role"] for message in bodies[-1]["messages"]]
    assert "tools" not in bodies[-1] and roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert "I called ItemCF" in bodies[-1]["messages"][2]["content"]


def test_token_budget(world):
    outcome, _ = run_one(world, options=LlmOptions(tokens=50), team={"tools": False})
    assert outcome.failure is None  # a first answer is always paid for
    outcome, _ = run_one(world, options=LlmOptions(tokens=100))
    assert str(outcome.failure).startswith("tokens: User_Profile_Summary")


@pytest.mark.parametrize(
    "kind", ["wrong_tool", "bad_arguments", "forged", "empty", "broken_json", "foreign_ids", "prose"]
)
def test_whatever_a_model_says_round_trips(world, kind):
    turn = Counter()

    def answer(body):
        turn["n"] += 1
        return endpoint.spoil(kind, body) if turn["n"] % 2 else endpoint.play(body)

    outcome, _ = run_one(world, answer=answer)
    text = render(outcome.trajectory)
    assert render(parse(text)) == text
    text.encode()


def test_concurrent_experts_do_not_read_one_another(world):
    outcome, bodies = run_one(world, team={"concurrent": True, "reflector": False})
    assert outcome.failure is None
    assert not any("What the team found" in body["messages"][1]["content"] for body in bodies[:-1])
    assert [step.tag for step in outcome.steps] == [
        "plan",
        "user_profile",
        "historical_analysis",
        "recent_analysis",
        "recommend",
    ]


def test_agents_read_the_summary_in_the_place_of_what_it_covers(world):
    case = world.case(world.tasks[0])
    told = replace(case, summary=Summary("Eight of a kind.", 8, case.history[0].timestamp, case.history[7].timestamp))
    world.case = lambda task: told
    _, bodies = run_one(world)
    for body in bodies:
        content = body["messages"][1]["content"]
        assert "Summary of" in content and "Eight of a kind." in content
        raw = content.split("# Record")[1].split("\n\n")[0].split("\n")[1:]
        assert [line.split(" | ")[0] for line in raw] == [entry.item_id for entry in case.history[8:]]


def test_prompts_keep_to_their_budget(world):
    world.histories["u0"] = [(f"i{n % 100}", n, 3.0) for n in range(20)] * 40
    outcome, bodies = run_one(world, prompt=PromptOptions(budget=2500))
    assert outcome.failure is None
    assert "older entries left out" in bodies[0]["messages"][1]["content"]
    assert max(len(body["messages"][1]["content"]) for body in bodies) < 2500 * 5
    student = student_prompt(world.case(world.tasks[0]), PromptOptions(budget=2500)).messages[1]["content"]
    record = student[student.index("# Record") : student.index("# Candidate")]
    asked = [body["messages"][1]["content"] for body in bodies]
    assert all(record.strip() in words for words in asked)  # the agents see what the student will see


def test_thirty_percent_faults_every_task_ends_once(world, tmp_path):
    async def main():
        async with (
            endpoint.Endpoint(faulty=0.3, seed=3) as server,
            client(server, timeout=0.5, retries=6, cache=str(tmp_path / "cache.sqlite")) as chat,
        ):
            team = world.team(LlmBackend(chat))
            identity = identity_of(team, prompts_version(), "m", "store")
            account = await teach(world.tasks, team, world.case, tmp_path / "runs", identity, passes=2, concurrency=20)
            return account, server.seen, chat.usage

    account, _, usage = asyncio.run(main())
    runs = list(read_runs(tmp_path / "runs"))
    assert Counter(run.id for run in runs) == Counter(f"{t.task_id}#{s}" for t in world.tasks for s in (0, 1))
    assert account.done == 80 and account.ranked + sum(account.failed.values()) == 80
    assert account.ranked > 10 and sum(usage.faults.values()) > 20
    assert set(account.failed) <= {"malformed", "calls", "endpoint", "tokens"}
    for run in runs:
        assert render(parse(run.text)) == run.text
        assert bool(run.failure) != bool(run.ranking)


def test_endpoint_down_at_the_start_nothing_is_written(world, tmp_path):
    async def main():
        async with ChatClient(ChatOptions(("http://127.0.0.1:9/v1",), model="m")) as chat:
            team = world.team(LlmBackend(chat))
            await teach(world.tasks, team, world.case, tmp_path / "runs", identity_of(team, {}, "m"))

    with pytest.raises(StarError, match="does not answer"):
        asyncio.run(main())
    assert not (tmp_path / "runs").exists()


def test_endpoint_that_dies_stops_the_teacher_and_its_runs_are_tried_again(tmp_path):
    world = World(tasks=60)

    async def main(fail):
        async with (
            endpoint.Endpoint(faulty=1.0 if fail else 0.0, kinds=("500",)) as server,
            client(server, retries=0, timeout=60) as chat,
        ):
            team = world.team(LlmBackend(chat))
            identity = identity_of(team, {}, "m")
            return await teach(world.tasks, team, world.case, tmp_path / "runs", identity, concurrency=4)

    with pytest.raises(StarError, match="one after the other"):
        asyncio.run(main(True))
    account = asyncio.run(main(False))
    assert (account.found, account.ranked) == (0, 60)
    assert len({run.id for run in read_runs(tmp_path / "runs")}) == len(list(read_runs(tmp_path / "runs"))) == 60


def test_answers_in_many_forms():
    assert read_answer(ChatReply('["a"]'))[2].value == ["a"]
    assert read_answer(ChatReply('```json\n{"correct": "yes"}\n```'))[2].value == {"correct": "yes"}
    words, calls, result = read_answer(ChatReply("<think>hm</think><user_profile><JSON>[]</JSON></user_profile>"))
    assert (words, calls, result.value) == ("hm", [], [])
    inline = '<tool_call>\n{"name": "UserCF", "arguments": {"user_id": "1"}}\n</tool_call>'
    assert read_answer(ChatReply(inline))[1][0].name == "UserCF"
    assert read_answer(ChatReply("\ud800"))[2] is None
    assert read_answer(ChatReply("5"))[2] is None


@pytest.mark.parametrize("bad", [{"turns": 0}, {"calls": -1}, {"prompt_tokens": 10}, {"chunk": 4}])
def test_bad_options(bad):
    with pytest.raises(StarError):
        LlmOptions(**bad)
