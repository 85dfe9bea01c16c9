"""Every script in examples/ runs."""

import datetime
import json
import sys
from pathlib import Path

import pytest

from star_rl import evaluate, load_recipe, run_recipe
from star_rl.files import import_file, read_json
from star_rl.own import about, open_environment, open_tools
from star_rl.rewards.loading import check, load
from star_rl.run import DATA, VisibleRun
from star_rl.tools import ToolBox
from star_rl.trajectory import PHASES, json_block

EXAMPLES = Path("examples")


@pytest.fixture(scope="module")
def quickstart():
    """The script, which imports its neighbour as it does when it is called."""
    sys.path.insert(0, str(EXAMPLES.resolve()))
    yield import_file(EXAMPLES / "quickstart.py")
    sys.path.remove(str(EXAMPLES.resolve()))


@pytest.fixture(scope="module")
def run(quickstart, tmp_path_factory):
    """The quickstart's small world as far as its SFT set."""
    folder = quickstart.main(["--small", "--until", "teach", "--out", str(tmp_path_factory.mktemp("runs"))])
    return quickstart.Run.open(folder)


def test_the_quickstart_s_options_are_those_of_its_recipe(quickstart):
    own, recipe = (
        quickstart.recipe("runs", small=False),
        load_recipe("recipes/quickstart.yaml", ["name=quickstart-python"]),
    )
    assert own == recipe


def test_the_quickstart_makes_data_and_an_sft_set(run):
    kept = read_json(run.folder / "sft_set" / "manifest.json")["figures"]
    assert "runs kept" in kept["summary"] and not kept["summary"].startswith("0 of")


def test_the_quickstart_compares_methods(quickstart, run, capsys):
    quickstart.compare(run, ["random", quickstart.Recency(run.items)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line] == ["method", "random", "recency"]


@pytest.mark.slow
@pytest.mark.engine
def test_the_quickstart_goes_to_the_end(quickstart, tmp_path, capsys):
    folder = quickstart.main(["--small", "--out", str(tmp_path)])
    assert (folder / "report.html").is_file() and (folder / "compared" / "report.html").is_file()
    assert "responses before GRPO" in capsys.readouterr().out


def test_the_reward_is_sound_and_counts_calls_and_the_list():
    reward = load(str(EXAMPLES / "custom_reward.py"))
    assert {"score", "acc", "rank"} <= set(check(reward))
    blocks = {tag: json_block({"correct": "yes"} if tag == "reflection" else ["7", "8"]).raw for tag in PHASES}
    text = "\n".join(
        f"<{tag}>\n<Thinking>So.</Thinking>\n<JSON>{json}</JSON>\n</{tag}>" for tag, json in blocks.items()
    )
    info = {"candidates": ["7", "8"], "rollout": {"tool_calls": 4}}
    assert reward("x", text, "8", info)["score"] == pytest.approx(0.5 - 2 * 0.05)
    assert reward("x", text, "8", info, call_cost=0.0)["score"] == 0.5
    assert reward("x", text, "7", {"candidates": ["7", "9"]})["score"] == pytest.approx(0.9)


@pytest.mark.parametrize("maker, name", [("make", "recency"), ("make_service", "recency service")])
def test_the_method_runs_by_its_file_and_beats_chance(run, tmp_path, maker, name):
    spec = f"python:{EXAMPLES}/custom_method.py:{maker}:decay=0.8"
    figures = evaluate(["random", spec], run.folder, tmp_path, part="train", resamples=100)
    chance, own = figures["methods"]
    assert (own["name"], own["failed"]) == (name, 0)
    assert own["hr_avg"] > chance["hr_avg"]


def test_the_source_runs_by_its_file(tmp_path, capsys):
    start, lines = datetime.datetime(2024, 5, 1), []
    for user in range(30):
        for place in range(12):
            when = start + datetime.timedelta(hours=100 * place + user)
            track = (7 * user + place * (1 + user % 3)) % 50
            lines.append(f"{when.isoformat()} user=u{user} track=t{track} genre=g{track % 4}")
    (tmp_path / "plays.log").write_text("\n".join([*lines, "not a play", ""]))
    source = [f"source.name={EXAMPLES}/custom_source.py", f"source.root={tmp_path}/plays.log", f"out={tmp_path}"]
    options = load_recipe("recipes/quickstart.yaml", [*source, "name=plays", "split.options.max_test=5"])
    run = run_recipe(options, ["tables", "tasks"])
    manifest = read_json(run.folder / "tables" / "tables.json")
    assert manifest["source"] == "plays" and manifest["dropped"]["interactions"]["not a play"] == 1
    assert run.items["t0"].title == "Track t0" and len(run.tasks("test")) == 5
    assert "1 rows dropped" in capsys.readouterr().out


def test_the_search_finds_items_by_their_words(run):
    tool = open_tools([f"{EXAMPLES}/search_tool.py:Search"], VisibleRun(run, DATA))["Search"]
    box = ToolBox(None, list(run.items), "candidates", own={"Search": tool})
    item = next(iter(run.items.values()))
    answer = box.call("Search", {"query": f"{item.title} {item.categories[0]}", "limit": 3})
    found = json.loads(answer.text.partition("\n")[0])
    assert answer.ok and 1 <= len(found) <= 3 and set(found[0]) == {"id", "title"}
    assert answer.text.endswith(json.dumps([one["id"] for one in found]))
    assert [box.call("Search", {"query": query}).text[:2] for query in ("", "the", "?!")] == ["[]"] * 3
    assert box.call("Search", {"query": "x", "limit": 0}).reason == "bad_arguments"


def test_the_user_rejects_a_list_once_and_says_why(run):
    begin = open_environment(f"{EXAMPLES}/rejecting_user.py:RejectingUser", VisibleRun(run, DATA))
    heard = set()
    for task in run.tasks("test"):
        for first in task.candidates:
            step = begin(about(task.task_id, task.user_id, task.candidates))
            text = f"<recommend><JSON>{json.dumps([first])}</JSON></recommend>"
            said = step(text)
            heard.add(said is None)
            assert said is None or (f'Not "{first}": lately I mostly chose' in said and step(text) is None)
        assert begin(about(task.task_id, "nobody", task.candidates))(text) is None
        assert begin(about(task.task_id, task.user_id, task.candidates))("no list") is None
    assert heard == {True, False}


def test_the_mcp_server_names_items_of_a_category(run):
    [tool] = open_tools(
        [f"mcp:{sys.executable} {EXAMPLES / 'mcp_server.py'} {run.tables / 'items.parquet'}"], None
    ).values()
    category = next(iter(run.items.values())).categories[0]
    answer, _ = tool.answer({"category": category, "limit": 2})
    named = [line.split(":")[0].strip('[" ') for line in answer.splitlines() if ":" in line]
    assert len(named) == 2 and all(category in run.items[item].categories for item in named)
