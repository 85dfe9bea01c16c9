"""Many tasks, written as they end: resume after a kill, refusals, the record."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from star_rl.errors import StarError
from star_rl.mars import RuleBackend, Team, TeamOptions, from_json, identity_of, read_runs, teach, to_json
from star_rl.mars.record import files_of
from star_rl.prompts import Case
from star_rl.records import Item
from star_rl.trajectory import json_block
from tests.chat import endpoint


def run(world, folder, identity=None, tasks=None, **more):
    team = world.team()
    chosen = identity or identity_of(team, {"agents": 1}, "rules", "store-1")
    return asyncio.run(teach(tasks or world.tasks, team, world.case, folder, chosen, **more))


def test_one_record_a_run(world, tmp_path):
    lines = []
    account = run(world, tmp_path, passes=3, progress=lambda done, total, note: lines.append((done, total, note)))
    runs = list(read_runs(tmp_path))
    assert Counter(r.id for r in runs) == Counter(f"{t.task_id}#{s}" for t in world.tasks for s in range(3))
    assert account.ranked == len(runs) == 120 and lines[-1][:2] == (120, 120) and "hit@1" in lines[-1][2]
    assert account.hits == sum(r.hit for r in runs) and account.tool_calls == sum(r.sum("calls") for r in runs)
    for r in runs:
        assert to_json(from_json(json.loads(json.dumps(to_json(r))))) == to_json(r)
        assert (r.prompts, r.model, r.store, r.format) == ({"agents": 1}, "rules", "store-1", 3)
        assert r.configuration["backend"]["backend"] == "rules"


def test_a_second_call_finds_everything_done(world, tmp_path):
    run(world, tmp_path, passes=2)
    before = (tmp_path / "runs.jsonl").read_bytes()
    account = run(world, tmp_path, passes=2)
    assert account.found == 80 and account.ranked == 0
    assert (tmp_path / "runs.jsonl").read_bytes() == before
    assert run(world, tmp_path, passes=3).ranked == 40  # more passes go on from there


def test_a_line_cut_by_a_kill_is_dropped_and_done_again(world, tmp_path):
    run(world, tmp_path)
    path = tmp_path / "runs.jsonl"
    path.write_bytes(path.read_bytes()[:-50])
    account = run(world, tmp_path)
    assert (account.found, account.ranked) == (39, 1)
    assert len({r.id for r in read_runs(tmp_path)}) == 40 == len(list(read_runs(tmp_path)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda i: i["prompts"].update(agents=2), "prompts.agents: 1 -> 2"),
        (lambda i: i.update(store="store-2"), "store: store-1 -> store-2"),
        (lambda i: i["configuration"]["team"].update(rounds=3), "configuration.team.rounds: 1 -> 3"),
        (lambda i: i.update(model="other"), "model: rules -> other"),
    ],
)
def test_a_changed_teacher_is_refused_and_says_what_changed(world, tmp_path, change, named):
    run(world, tmp_path)
    before = (tmp_path / "runs.jsonl").read_bytes()
    identity = identity_of(world.team(), {"agents": 1}, "rules", "store-1")
    change(identity)
    with pytest.raises(StarError, match=named):
        run(world, tmp_path, identity)
    assert (tmp_path / "runs.jsonl").read_bytes() == before


def test_a_task_that_reads_differently_is_refused(world, tmp_path):
    run(world, tmp_path)
    changed = replace(world.tasks[3], candidates=world.tasks[3].candidates[::-1])
    with pytest.raises(StarError, match="t3"):
        run(world, tmp_path, tasks=[changed])


def test_other_refusals(world, tmp_path):
    with pytest.raises(StarError, match="t0"):
        run(world, tmp_path / "a", tasks=[world.tasks[0], world.tasks[0]])
    with pytest.raises(StarError, match="passes"):
        run(world, tmp_path / "a", passes=0)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "runs.jsonl").write_text('{"format": 99}\n')
    with pytest.raises(StarError, match=r"teacher\.json"):
        run(world, tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(StarError):
        run(world, tmp_path / "file" / "below")
    with pytest.raises(StarError, match="no runs"):
        files_of(tmp_path / "nowhere")
    with pytest.raises(StarError, match="format 99"):
        list(read_runs(tmp_path / "b"))
    (tmp_path / "b" / "runs.jsonl").write_text("no json\n")
    with pytest.raises(StarError, match="is not JSON"):
        list(read_runs(tmp_path / "b"))


def test_two_processes_do_not_teach_into_one_folder(world, tmp_path):
    import fcntl

    tmp_path.mkdir(exist_ok=True)
    with open(tmp_path / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StarError, match="another process"):
            run(world, tmp_path)


ROOT = Path(__file__).parents[2]
_KILLED = """
import asyncio, sys
from star_rl.chat import ChatClient, ChatOptions
from star_rl.mars import identity_of, teach
from star_rl.mars.llm import LlmBackend
from tests.fakes import World
async def main():
    world = World(tasks=30)
    async with ChatClient(ChatOptions((sys.argv[1],), model="m", cache=sys.argv[2] + "/cache.sqlite")) as chat:
        team = world.team(LlmBackend(chat))
        await teach(world.tasks, team, world.case, sys.argv[2] + "/runs", identity_of(team, {}, "m"), concurrency=8)
asyncio.run(main())
"""


def test_kill_nine_loses_no_run_and_pays_none_twice(world, tmp_path):
    """Killed several times; each request reached the endpoint once, but for those in flight at a kill."""
    arguments = [sys.executable, "-c", _KILLED]

    async def main():
        async with endpoint.Endpoint(delay=0.02) as server:
            for _ in range(3):
                process = await asyncio.create_subprocess_exec(*arguments, server.url, str(tmp_path), cwd=ROOT)
                begun = server.seen["calls"]
                deadline = time.monotonic() + 30
                while server.seen["calls"] < begun + 60 and time.monotonic() < deadline:
                    await asyncio.sleep(0.005)
                os.kill(process.pid, signal.SIGKILL)
                await process.wait()
            process = await asyncio.create_subprocess_exec(*arguments, server.url, str(tmp_path), cwd=ROOT)
            assert await process.wait() == 0
            return Counter(json.dumps(body, sort_keys=True) for body in server.bodies)

    asked = asyncio.run(main())
    runs = list(read_runs(tmp_path / "runs"))
    assert Counter(r.task.task_id for r in runs) == Counter(f"t{n}" for n in range(30))
    assert sum(count - 1 for count in asked.values()) <= 3 * 8


def test_an_interrupt_between_two_runs_leaves_a_folder_that_goes_on(world, tmp_path):
    class Stop(Exception):
        pass

    def stop(done, total, note):
        if done == 7:
            raise Stop

    with pytest.raises(Stop):
        run(world, tmp_path, progress=stop)
    assert run(world, tmp_path).found >= 7
    assert len(list(read_runs(tmp_path))) == 40


class Missing(RuleBackend):
    """A ranker that puts the truth last until it is told of it."""

    def __init__(self, truth):
        super().__init__(popular={})
        self.truth, self.told = truth, []

    async def act(self, agent, view):
        step = await super().act(agent, view)
        self.told.append(view.suggestion)
        order = sorted(view.case.candidates, key=lambda item: (item == self.truth) != bool(view.suggestion))
        step.value, step.blocks, step.model_calls = order, [json_block(order)], 1
        return step


@pytest.mark.parametrize("rethink, calls", [(0, 1), (2, 2)])
def test_a_ranker_that_missed_is_told_once_and_its_first_try_is_left_out(rethink, calls):
    items = {name: Item(name, name, ("k",)) for name in "abc"}
    case = Case("t", "films", "classic", "u", ("a", "b", "c"), (), items)
    backend = Missing("a")
    parts = {"planner": False, "reflector": False, "tools": False, "experts": False}
    team = Team(backend, None, TeamOptions(**parts, rethink=rethink, top=3))
    outcome = asyncio.run(team.run(case, truth="a"))
    assert (outcome.ranking[0] == "a") == bool(rethink) and len(backend.told) == calls
    assert outcome.trajectory.tags == ["recommend"] and outcome.steps[0].model_calls == calls
    assert asyncio.run(Team(Missing("a"), None, team.options).run(case)).ranking[-1] == "a"
