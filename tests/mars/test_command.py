"""The sub-commands ``teach`` and ``view``."""

import asyncio
import threading

import pyarrow as pa
import pytest

from star_rl import cli
from star_rl.mars import read_runs
from star_rl.records import INTERACTIONS, ITEMS, tasks_to, write_table
from star_rl.summaries.build import build_summaries, longest
from tests.chat import endpoint


def command(*words):
    return cli.main([str(word) for word in words])


@pytest.fixture
def tables(world, tmp_path):
    folder = tmp_path / "tables"
    rows = [
        {"user_id": user, "item_id": item, "timestamp": time, "rating": rating, "text": None}
        for user in sorted(world.histories)
        for item, time, rating in world.histories[user]
    ]
    items = [
        {"item_id": item.item_id, "title": item.title, "categories": list(item.categories), "attributes": "{}"}
        for item in world.items.values()
    ]
    write_table(folder / "interactions.parquet", pa.Table.from_pylist(rows, schema=INTERACTIONS), "interactions")
    write_table(folder / "items.parquet", pa.Table.from_pylist(items, schema=ITEMS), "items")
    write_table(folder / "tasks.parquet", tasks_to(world.tasks), "tasks")
    return folder


def test_rules_without_tools_then_view(tables, tmp_path, capsys):
    assert command("teach", tables, tmp_path / "out", "--no-tools", "--passes", 2, "--first", 5) == 0
    assert len(list(read_runs(tmp_path / "out"))) == 10
    assert "10 of 10 runs" in capsys.readouterr().out
    assert command("view", tmp_path / "out", "--page", tmp_path / "page.html", "--items", tables) == 0
    assert command("view", tmp_path / "out", "--run", "t2#1") == 0
    assert "t2#1" in capsys.readouterr().out


def test_a_run_s_summaries_are_read_and_part_of_the_runs_identity(world, tables, tmp_path, capsys):
    tasks = longest(world.tasks, lambda task: len(world.case(task).history), 4)
    origin = ("classic", "data")
    asyncio.run(build_summaries(tmp_path / "summaries", tasks, world.case, origin=origin, chunk=4, words=99))
    words = ["teach", tables, tmp_path / "out", "--no-tools", "--first", 3]
    assert command(*words, "--summaries", tmp_path / "summaries") == 0
    assert command(*words) == 2 and "changed: summaries" in capsys.readouterr().err
    assert command("teach", tables, tmp_path / "none", "--summaries", tmp_path / "none", "--no-tools") == 2
    assert "there are no summaries in" in capsys.readouterr().err


def test_over_http_and_again(tables, tmp_path, capsys):
    """The server runs in a loop of its own; the second call pays for nothing."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(endpoint.Endpoint().__aenter__(), loop).result(10)
    words = ["teach", tables, tmp_path / "out", "--no-tools", "--endpoint", server.url, "--prices", 1, 2, "--first", 6]
    assert command(*words) == 0
    paid = server.seen["calls"]
    assert command(*words) == 0 and server.seen["calls"] == paid > 0
    assert "6 found" in capsys.readouterr().out
    assert command(*words, "--temperature", 0.1) == 2
    assert "temperature" in capsys.readouterr().err
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "evidence store"),
        (["--no-tools", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m"], "does not answer"),
        (["--no-tools", "--planner-endpoint", "http://127.0.0.1:9/v1"], "--endpoint"),
        (["--no-tools", "--first", -1], "--first"),
        (["--no-tools", "--top", 0], "top"),
        (["--store", "none"], "no visible interactions"),
    ],
)
def test_refusals(tables, tmp_path, capsys, words, says):
    assert command("teach", tables, tmp_path / "out", *words) == 2
    assert says in capsys.readouterr().err


def test_missing_folders_are_refused(tmp_path, capsys):
    assert command("teach", tmp_path / "nowhere", tmp_path / "out", "--no-tools") == 2
    assert "no table" in capsys.readouterr().err
    assert command("view", tmp_path / "nowhere") == 2
    assert "no runs" in capsys.readouterr().err


def test_a_teacher_that_ranks_nothing_ends_with_2_and_the_reason(tables, tmp_path, capsys):
    def answer(body):
        return {"content": "I would rather not."}

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(endpoint.Endpoint(answer=answer).__aenter__(), loop).result(10)
    words = ["teach", tables, tmp_path / "out", "--no-tools", "--first", 4, "--endpoint", server.url]
    assert command(*words, "--request", "{extra: {seed: 7}, drop: [top_p]}") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "none of 4 runs is ranked" in last and "malformed: Planner: it holds no JSON result (4 x)" in last
    assert server.bodies[0]["seed"] == 7 and "top_p" not in server.bodies[0]
    assert command(*words, "--request", "seed") == 2 and "is not a mapping" in capsys.readouterr().err
    assert command(*words, "--preset", "openia") == 2 and "openia" in capsys.readouterr().err
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
