"""Tables as the official simulator reads them, methods behind the bridge, and the whole run: with a stand-in of the
package everywhere, with the package itself where ``make official`` has installed it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from star_rl import cli
from star_rl.baselines import Random
from star_rl.baselines.agents import BaseAgent
from star_rl.errors import StarError
from star_rl.evaluation.methods import Method, Ranking, TaskContext
from star_rl.evaluation.methods.baseline import BaselineMethod
from star_rl.evaluation.official import Bridge, OfficialScore, groups_below, simulate, table, write_layout
from star_rl.evaluation.official.bridge import events_of
from star_rl.prompts import Behaviour
from star_rl.records import INTERACTIONS, Task, items_from, read_table, tasks_from
from star_rl.scenarios import Histories
from star_rl.sources import write_tables
from tests.evaluation.official_world import ITEMS, stand_in, world, write

OFFICIAL = Path(os.environ.get("STAR_RL_OFFICIAL", Path(__file__).parents[2] / ".bench/official/bin/python"))


@pytest.mark.parametrize("source", ["amazon", "goodreads", "yelp", "synthetic"])
def test_what_is_written_reads_back_as_the_same_tables(tmp_path, source):
    tasks, histories, groups = write(tmp_path / "raw", source)
    write_tables("agentrecbench", tmp_path / "raw", tmp_path / "out", {})
    items = items_from(read_table(tmp_path / "out", "items"))
    assert {name: item.title for name, item in items.items()} == {n: f"Title > {n[1:]}, \u00e9" for n in ITEMS}
    assert all(item.categories[0] == "Games" for item in items.values())
    again = Histories(read_table(tmp_path / "out", "interactions"))
    read = {task.user_id: task for task in tasks_from(read_table(tmp_path / "out", "tasks"))}
    assert len(read) == len(tasks) and sum(len(group.truths) for group in groups) == len(tasks)
    for task in tasks:
        found = read[task.user_id]
        assert (found.candidates, found.ground_truth) == (task.candidates, task.ground_truth)
        assert again.history(found) == histories.history(task)


def test_a_users_file_holds_nothing_from_the_task_on_and_no_truth(tmp_path):
    tasks, _, _ = write(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "review.json").read_text().splitlines()]
    for task in tasks:
        own = [row for row in rows if row["user_id"] == task.user_id]
        assert own and all(row["timestamp"] < 1000 * task.cutoff for row in own)
        assert task.ground_truth not in {row["item_id"] for row in own}
    assert len({row["review_id"] for row in rows}) == len(rows)


def test_positions_stay_positions_and_reviews_are_written(tmp_path):
    task = Task("t", "sequences", "classic", "u", ("a", "b"), "b", 3)
    history = [("c", 0, None), ("d", 1, 2.0), ("a", 2, float("nan"))]
    visible = pa.Table.from_pylist([], INTERACTIONS)

    def texts(user, events):
        return {event[:2]: f"of {event[0]}" for event in events}

    write_layout(tmp_path, [task], visible, lambda _: history, {}, reviews=texts)
    rows = [json.loads(line) for line in (tmp_path / "review.json").read_text().splitlines()]
    assert [(row["timestamp"], row["text"]) for row in rows] == [(0, "of c"), (1, "of d"), (2, "of a")]
    assert events_of(rows) == [("c", 0, None), ("d", 1, 2.0), ("a", 2, None)]
    assert Behaviour(*events_of(rows)[1]).rating == 2.0


def test_two_histories_of_one_user_are_refused(tmp_path):
    tasks, table, _ = world()
    with pytest.raises(StarError, match="one scenario at a time"):
        write_layout(tmp_path, [tasks[0], tasks[0]], table, _in_turn([("i1", 1, None)], []), ITEMS)
    with pytest.raises(StarError, match="no tasks"):
        write_layout(tmp_path, [], table, lambda _: [], ITEMS)


def _in_turn(*answers):
    left = list(answers)
    return lambda task: left.pop(0)


def test_groups_of_a_download_take_simulated_tasks_first(tmp_path):
    for number, kind in ((2, "real"), (10, "sim"), (3, "sim")):
        for part, row in (("tasks", {"data type": kind}), ("groundtruth", {"ground truth": f"i{number}"})):
            (tmp_path / "amazon" / part).mkdir(parents=True, exist_ok=True)
            name = f"{'task' if part == 'tasks' else part}_{number}.json"
            (tmp_path / "amazon" / part / name).write_text(json.dumps(row))
    (tmp_path / "amazon" / "tasks" / "task_77.json").write_text("{}")  # no truth: the simulator passes it over
    (group,) = groups_below(tmp_path)
    assert (group.name, group.truths) == ("amazon", ("i3", "i10", "i2"))
    for row in ({}, [], {"ground truth": 3}):
        (tmp_path / "amazon" / "groundtruth" / "groundtruth_2.json").write_text(json.dumps(row))
        with pytest.raises(StarError, match=r"groundtruth_2.json holds no ground truth"):
            groups_below(tmp_path)
    with pytest.raises(StarError, match="holds tasks and groundtruth"):
        groups_below(tmp_path / "amazon" / "tasks")


# ------------------------------------------------------------------------------------------------- the bridge


class Backwards:
    """A ranker: candidates the user has not had, by name, backwards."""

    name = "backwards"

    def rank(self, context):
        return sorted(set(context.task.candidates) - set(context.item_ids), reverse=True)


class Moody(Method):
    """Raises, gives nothing, or ranks, by the user's number."""

    name, varies, opened = "moody", True, 0

    async def __aenter__(self):
        Moody.opened += 1
        return self

    async def __aexit__(self, *_):
        Moody.opened -= 1

    async def rank(self, context):
        task = context.task
        assert task.ground_truth == ""
        number = int(task.user_id[1:])
        if number == 1:
            raise ValueError("out of \n sorts " + "x" * 999)
        return Ranking(None, "wrote no list") if number == 2 else Ranking([None, "x", *task.candidates])


async def said(bridge, row):
    host, port = bridge.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n")
    answer = json.loads(await reader.readline())
    writer.close()
    return answer


def asked(task, reviews=(), items=(), method=""):
    about = {"user_id": task.user_id, "candidate_list": list(task.candidates)[::-1], "loc": [-1, -1]}
    return {"method": method, "task": about, "user": {}, "reviews": list(reviews), "items": list(items)}


def test_the_bridge_answers_whatever_it_is_sent():
    tasks, _, _ = world()

    async def main():
        async with Bridge({"moody": Moody(), "backwards": BaselineMethod(Backwards())}, tasks) as bridge:
            assert (await said(bridge, asked(tasks[0])))["ranking"] == [None, "x", *tasks[0].candidates]
            assert Moody.opened == 1
            assert (await said(bridge, asked(tasks[1])))["error"].startswith("ValueError: out of sorts x")
            assert (await said(bridge, asked(tasks[2])))["error"] == "error: wrote no list"
            for bad in (b"", b"\xff", b"[]", b"{}", b'{"method": "moody", "task": 3}', b'{"method": []}'):
                assert "error" in await said(bridge, bad)
            assert bridge.fault is None
            assert await said(bridge, {"open": "backwards"}) == {"ready": "backwards"}
            assert Moody.opened == 0  # one at a time
            assert "no method 'nobody'" in (await said(bridge, asked(tasks[0], method="nobody")))["error"]
            assert bridge.fault is not None

    asyncio.run(main())


def test_a_known_task_is_taken_with_its_own_order_and_cutoff():
    tasks, _, _ = world()
    late = {"item_id": "i3", "timestamp": 1000 * tasks[0].cutoff, "stars": 5}
    early = {"item_id": "i4", "timestamp": 1000 * tasks[0].cutoff - 1000, "stars": "2"}
    bridge = Bridge({}, tasks, ITEMS)
    context = bridge.read(asked(tasks[0], [late, early], [{"item_id": "i4", "title": "of the tool"}]))
    task = context.task
    assert (task.task_id, task.candidates, task.ground_truth) == ("t0", tasks[0].candidates, "")
    assert context.history == [("i4", tasks[0].cutoff - 1, 2.0)]
    assert context.items["i4"].title.startswith("Title")


def test_agents_behind_the_bridge_see_profile_and_texts():
    tasks, _, _ = world()
    late = {"item_id": "i3", "timestamp": 1000 * tasks[0].cutoff, "stars": 5, "text": "after the task"}
    early = {"item_id": "i39", "timestamp": 1000 * tasks[0].cutoff - 1000, "stars": "2", "text": "loud"}
    told = {"user_id": tasks[0].user_id, "name": "Ann", "fans": 3, "elite": []}
    row = {**asked(tasks[0], [late, early, {"item_id": "i5", "text": "no time"}]), "user": told}
    context = Bridge({}, tasks, ITEMS).read(row)
    case = context.case()
    assert case.user == {"name": "Ann", "fans": 3} and case.history[-1].text == "loud"
    record = BaseAgent(None).record(case)
    assert len(record) == 1 and record[0].endswith("rated 2 | loud")
    known = Bridge({}, tasks, ITEMS, lambda user: {"name": f"{user} of the tables"})
    assert known.read(row).user == {"name": f"{tasks[0].user_id} of the tables"}
    for odd in (None, 3, []):
        assert Bridge({}).read({**row, "user": odd}).user == {}


def test_an_unknown_task_is_shuffled_and_its_items_come_from_the_tool():
    rows = [
        {"item_id": "y", "date": "2019-03-01 10:00:00", "stars": 4, "source": "yelp"},
        {"item_id": "g", "date_added": "Thu Aug 17 15:15:28 -0700 2017", "stars": "3", "source": "goodreads"},
        {"item_id": "no time", "stars": 1},
    ]
    items = [{"item_id": "y", "name": "Caf\u00e9", "city": "Reno", "categories": "Coffee, Cake", "source": "yelp"}]
    given = Task("", "", "", "u", tuple(f"c{n:02d}" for n in range(20)), "", 0)
    context = Bridge({}).read(asked(given, rows, items))
    task = context.task
    turned = {"user_id": "u", "candidate_list": sorted(given.candidates)}
    again = Bridge({}).read({**asked(given, rows, items), "task": turned}).task
    assert task == again and sorted(task.candidates) == sorted(given.candidates)
    assert list(task.candidates) not in (sorted(given.candidates), sorted(given.candidates, reverse=True))
    assert [event[0] for event in context.history] == ["g", "y"] and task.source == "yelp"
    assert context.items["y"].title == "Caf\u00e9" and list(context.items["y"].categories) == ["Coffee", "Cake"]


# ----------------------------------------------------------------------------------------------- the whole run


def run(python, tmp_path, methods, progress=None):
    tasks, histories, groups = write(tmp_path / "data")
    whole = {task.task_id: task for task in tasks}

    def outside(task):
        return TaskContext(task, histories.history(whole[task.task_id]), ITEMS)

    data, out = tmp_path / "data", tmp_path / "out"
    return asyncio.run(
        simulate(
            methods,
            groups,
            data,
            out,
            python=python,
            known=tasks,
            items=ITEMS,
            outside=outside,
            threads=4,
            progress=progress,
        )
    )


def held(rows, out):
    assert [(row.method, row.group, row.n, row.failed) for row in rows] == [
        ("backwards", "amazon classic", 4, 0),
        ("backwards", "amazon user_cold_start", 2, 0),
        ("moody", "amazon classic", 4, 2),
        ("moody", "amazon user_cold_start", 2, 0),
    ]
    assert all(row.agreed for row in rows)
    assert [(row.checked, row.same) for row in rows] == [(6, 6), (6, 6), (0, 0), (0, 0)]
    assert rows[2].theirs["hr5"] == 0.0  # the truth stands sixth, behind two that are no candidates eighth
    errors = json.loads((out / "moody" / "amazon_classic" / "evaluation.json").read_text())["errors"]
    assert len(errors) == 2 and any("out of sorts" in error for error in errors)
    assert (out / "star_rl_agent.py").is_file()


def test_the_whole_run_with_a_stand_in(tmp_path):
    seen = []
    rows = run(stand_in(tmp_path), tmp_path, [BaselineMethod(Backwards()), Moody()], lambda *words: seen.append(words))
    held(rows, tmp_path / "out")
    shown = table(rows)
    assert "6/6 alike" in shown and "DIFFER" not in shown
    assert "moody, amazon classic: 1 x failed (" in shown and "out of sorts x" in shown and "wrote no list" in shown
    assert [done for done, _, _ in seen] == list(range(1, 13)) and seen[-1][1] == 12
    assert seen[5][2] == "backwards" and seen[-1][2] == "moody, 2 failed"


@pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"no simulator at {OFFICIAL} (make official installs it)")
def test_the_whole_run_in_the_official_simulator(tmp_path):
    rows = run(OFFICIAL, tmp_path, [BaselineMethod(Backwards()), Moody()])
    held(rows, tmp_path / "out")
    outputs = json.loads((tmp_path / "out" / "moody" / "amazon_classic" / "outputs.json").read_text())
    assert outputs[0]["output"][:2] == [None, "x"]


def test_an_interpreter_without_the_package_is_named(tmp_path):
    with pytest.raises(StarError, match="has no websocietysimulator - make official"):
        run(Path(sys.executable), tmp_path, [BaselineMethod(Backwards())])
    with pytest.raises(StarError, match="does not start"):
        run(tmp_path / "no-python", tmp_path, [BaselineMethod(Backwards())])


def test_a_simulator_that_breaks_is_told_with_its_words(tmp_path):
    python = stand_in(tmp_path)
    (tmp_path / "packages/websocietysimulator/agent.py").write_text("raise ImportError('gone astray')")
    with pytest.raises(StarError, match=r"ended with 1.*gone astray"):
        run(python, tmp_path, [BaselineMethod(Backwards())])


def test_a_method_that_cannot_work_at_all_stops_the_run(tmp_path):
    class Closed(Moody):
        name = "closed"

        async def __aenter__(self):
            raise StarError("there is no checkpoint here", "name another")

    with pytest.raises(StarError, match="no checkpoint here"):
        run(stand_in(tmp_path), tmp_path, [Closed()])
    with pytest.raises(StarError, match="two methods are called 'moody'"):
        run(Path(sys.executable), tmp_path, [Moody(), Moody()])


def test_figures_that_differ_are_shown():
    figures = dict.fromkeys(("hr1", "hr3", "hr5", "hr_avg"), 0.5)
    row = OfficialScore("m", "g", 3, 1, figures, {**figures, "hr5": 0.4999})
    assert not row.agreed and "DIFFER" in table([row])


@pytest.fixture(scope="module")
def small_run(run, tmp_path_factory):
    return shutil.copytree(run, tmp_path_factory.mktemp("runs") / "small")


def test_the_command_prints_both_figures(small_run, tmp_path, capsys):
    python = str(stand_in(tmp_path))
    assert cli.main(["official", str(small_run), "random", "item_knn", "--tasks", "12", "--python", python]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["random", "item_knn"]
    assert all("equal" in line and "12/12 alike" in line for line in lines[1:3])
    rows = json.loads((small_run / "official" / "official.json").read_text())
    assert [row["agreed"] for row in rows] == [True, True]

    data = str(small_run / "official" / "data")
    again = ["official", str(small_run), "item_knn", "--data", data, "--python", python, "--out", str(tmp_path / "o")]
    assert cli.main(again) == 0
    assert lines[2].split()[-9:] == capsys.readouterr().out.splitlines()[1].split()[-9:]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["no/run", "random"], "no/run is not a run folder"),
        (["RUN", "nobody"], "there is no method 'nobody'"),
        (["RUN", "random", "--serve", "here"], "'here' is no place to listen at"),
        (["RUN", "random", "--data", "no/data"], "holds tasks and groundtruth"),
        (["RUN", "random", "--python", "no/python"], "does not start"),
    ],
)
def test_what_can_be_mended_is_one_line(small_run, arguments, says, capsys):
    given = [str(small_run) if word == "RUN" else word for word in arguments]
    assert cli.main(["official", *given]) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_serving_answers_until_it_is_stopped(small_run):
    process = subprocess.Popen(
        [sys.executable, "-m", "star_rl.cli", "official", str(small_run), "random", "--serve", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        # A shell starts what it puts in the background with the signal ignored, and that is passed on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        words = process.stdout.readline().split()
        place = words[0].removeprefix("STAR_RL_BRIDGE=").split(":")
        row = {"task": {"user_id": "u", "candidate_list": ["a", "b", "c"]}, "method": ""}
        with socket.create_connection((place[0], int(place[1])), timeout=30) as line:
            line.sendall(json.dumps(row).encode() + b"\n")
            assert sorted(json.loads(line.makefile().readline())["ranking"]) == ["a", "b", "c"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
        process.communicate()


def test_the_benchmarks_own_tasks_in_the_official_simulator(tmp_path):
    """1,172 tasks as they are handed out, with candidates that stand twice; tables of nothing but their ids."""
    root = Path(os.environ.get("STAR_RL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "agentsociety-track2"
    if not OFFICIAL.is_file() or not root.is_dir():
        pytest.skip(f"needs {OFFICIAL} (make official) and {root} (STAR_RL_DATA)")
    groups = groups_below(root)
    rows = [json.loads(path.read_text()) for group in groups for path in group.tasks.glob("task_*.json")]
    ids = sorted({name for row in rows for name in row["candidate_list"]})
    users = sorted({row["user_id"] for row in rows})
    for name, lines in (
        ("item", [{"item_id": item, "title": item} for item in ids]),
        ("user", [{"user_id": user} for user in users]),
        ("review", [{"review_id": "r", "user_id": users[0], "item_id": ids[0], "stars": 5, "timestamp": 1}]),
    ):
        (tmp_path / f"{name}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    methods = [BaselineMethod(Random(1)), BaselineMethod(Backwards())]
    found = asyncio.run(simulate(methods, groups, tmp_path, tmp_path / "out", python=OFFICIAL, threads=4))
    assert sum(row.n for row in found) == 2 * len(rows) == 2 * 1172
    assert all(row.agreed and not row.failed for row in found)
    chance = sum(row.n * row.theirs["hr_avg"] for row in found if row.method == "random") / len(rows)
    assert 0.12 < chance < 0.18
