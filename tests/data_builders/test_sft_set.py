"""The outcome filter and the SFT sets."""

import asyncio
import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from star_rl.data_builders.sft_set import SETTINGS, SftOptions, build_sft, percentiles
from star_rl.errors import StarError
from star_rl.mars import identity_of, read_runs, teach, to_json
from star_rl.prompts import PromptOptions, student_prompt
from star_rl.tools import TOOL_SCHEMAS
from star_rl.trajectory import faults, from_messages, render
from tests.fakes import World

COMPACT = PromptOptions("compact")


@pytest.fixture(scope="module")
def world():
    return World(tasks=60)


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """Folders of runs of the whole teacher and of each ablated one."""
    root = tmp_path_factory.mktemp("runs")
    for name, parts in {"full": {}, "no_tools": {"tools": False}, "no_planner": {"planner": False}}.items():
        team = world.team(**parts)
        asyncio.run(teach(world.tasks, team, world.case, root / name, identity_of(team, {}), passes=4))
    return root


def build(world, runs, folder, **options):
    chosen = {"prompt": COMPACT, "within": 0, "spread": 0.0, **options}
    return build_sft(runs, world.case, folder, SftOptions(**chosen))


def rows(folder):
    return pq.read_table(folder / "sft.parquet").to_pylist()


def test_the_filter_keeps_top_one_and_says_why_the_rest_went(world, runs, tmp_path):
    hits = [run for run in read_runs(runs / "full") if run.hit]
    audit = build(world, runs / "full", tmp_path, within=1)
    assert audit["read"] == 240 and audit["kept"] == len(hits) and audit["dropped"] == {"miss": 240 - len(hits)}
    texts = [render(from_messages(row["messages"])) for row in rows(tmp_path)]
    assert texts == [run.text for run in hits] and texts


def test_failures_and_malformed_runs_are_counted(world, runs, tmp_path):
    lines = [to_json(run) for run in read_runs(runs / "full")][:4]
    lines[0].update(failure={"kind": "malformed", "message": "no list", "agent": "Ranker"}, ranking=[])
    lines[1].update(text=lines[1]["text"].replace("</plan>", ""))
    lines[2].update(text=lines[2]["text"] + "\n")
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    audit = build(world, tmp_path / "runs.jsonl", tmp_path / "out")
    assert audit["dropped"] == {"failed_malformed": 1, "malformed": 1, "not_identical": 1} and audit["kept"] == 1
    with pytest.raises(StarError, match="no runs"):
        build(world, tmp_path / "none", tmp_path / "x")


def test_full_set_is_prompt_and_trajectory_to_the_letter(world, runs, tmp_path):
    audit = build(world, runs / "full", tmp_path)
    of_task = {task.task_id: task for task in world.tasks}
    texts = Counter(run.text for run in read_runs(runs / "full"))
    listed = rows(tmp_path)
    assert len(listed) == audit["kept"] == 240
    for row in listed:
        messages = row["messages"]
        task = of_task[row["task_id"]]
        assert messages[:2] == student_prompt(world.case(task), COMPACT).messages
        assert [m["role"] for m in messages[2:5]] == ["assistant", "tool", "assistant"]
        assert texts[render(from_messages(messages))] > 0
        assert json.loads(row["tools"]) == TOOL_SCHEMAS
        assert messages[-1]["role"] == "assistant" and messages[-1]["content"].endswith("</recommend>")
    assert 0 < audit["corrected_share"] < 1


def test_each_setting(world, runs, tmp_path):
    for name, source in {
        "full": "full",
        "no_tools": "no_tools",
        "no_planner": "no_planner",
        "no_reflector": "full",
        "planner_only": "full",
    }.items():
        audit = build(world, runs / source, tmp_path / name, setting=name)
        table = pq.read_table(tmp_path / name / "sft.parquet")
        assert ("tools" in table.column_names) == (name not in ("no_tools", "planner_only"))
        for row in table.to_pylist():
            text = render(from_messages(row["messages"]))
            assert ("<tool_call>" in text) == (name not in ("no_tools", "planner_only"))
            assert ("<plan>" in text) == (name != "no_planner")
            assert ("<reflection>" in text) == (name not in ("no_reflector", "planner_only"))
            assert ("<recommend>" in text) == (name != "planner_only")
            assert ("ask the tools" in row["messages"][0]["content"]) == (name not in ("no_tools", "planner_only"))
            if name != "planner_only":
                required = [t for t in ("plan", "reflection", "recommend") if f"<{t}>" in text]
                assert faults(from_messages(row["messages"]), required, own_text=False) == []
        assert audit["set"] == name and audit["kept"] == table.num_rows
        assert audit["native"] == (0 if name == "no_reflector" else audit["kept"])
    assert set(SETTINGS) - {"fast"} == {p.name for p in tmp_path.iterdir()}


def test_derived_sets_hold_no_run_that_was_corrected(world, runs, tmp_path):
    audit = build(world, runs / "full", tmp_path, setting="no_reflector")
    corrected = sum(run.corrected for run in read_runs(runs / "full"))
    assert audit["dropped"] == {"corrected": corrected} and audit["corrected_share"] == 0


def test_native_runs_are_preferred(world, runs, tmp_path):
    audit = build(world, [runs / "full", runs / "no_planner"], tmp_path, setting="no_planner")
    assert audit["native"] == audit["kept"] == 240 and audit["dropped"]["derived"] == 240


def test_runs_of_another_teacher_have_no_place(world, runs, tmp_path):
    audit = build(world, [runs / "full", runs / "no_tools"], tmp_path)
    assert audit["dropped"] == {"other_teacher": 240} and audit["kept"] == 240
    with pytest.raises(StarError, match="other_teacher"):
        build(world, runs / "full", tmp_path / "x", setting="no_tools")
    assert not list((tmp_path / "x").iterdir())


def test_bounds_balance_and_seed(world, runs, tmp_path):
    audit = build(world, runs / "full", tmp_path / "a", per_task=2, spread=1.0, within=1)
    assert max(Counter(row["task_id"] for row in rows(tmp_path / "a")).values()) <= 2
    assert len(set(audit["groups"].values())) == 1
    assert audit["kept"] + sum(audit["dropped"].values()) == audit["read"]
    again = build(world, runs / "full", tmp_path / "b", per_task=2, spread=1.0, within=1)
    other = build(world, runs / "full", tmp_path / "c", per_task=2, spread=1.0, within=1, seed=1)
    assert again["sha256"] == audit["sha256"] != other["sha256"]
    few = build(world, runs / "full", tmp_path / "d", limit=11)
    assert few["kept"] == 11 and max(few["groups"].values()) - min(few["groups"].values()) <= 1


def test_nothing_but_repeated_trajectories_is_left_out_unless_asked(world, runs, tmp_path):
    hits = [run for run in read_runs(runs / "full") if run.hit]
    twice = "".join(json.dumps(to_json(run)) + "\n" for run in hits for _ in range(2))
    (tmp_path / "runs.jsonl").write_text(twice)
    audit = build_sft(tmp_path / "runs.jsonl", world.case, tmp_path / "out", SftOptions(prompt=COMPACT))
    assert audit["kept"] == audit["hits"] == audit["read"] == 2 * len(hits) and audit["dropped"] == {}
    asked = build_sft(tmp_path / "runs.jsonl", world.case, tmp_path / "b", SftOptions(prompt=COMPACT, per_task=9))
    distinct = len({(run.task.task_id, run.text) for run in hits})
    assert asked["kept"] == distinct > len({run.task.task_id for run in hits})
    assert asked["dropped"] == {"duplicate": 2 * len(hits) - distinct}


def test_over_long_samples_are_named(world, runs, tmp_path):
    lengths = build(world, runs / "full", tmp_path / "a")["tokens"]["total"]
    audit = build(world, runs / "full", tmp_path / "b", max_tokens=lengths["p50"])
    assert audit["over_long"]["count"] == audit["dropped"]["over_long"] == 240 - audit["kept"] > 0
    assert len(audit["over_long"]["runs"]) == min(50, audit["over_long"]["count"])
    with pytest.raises(StarError, match="over_long"):
        build(world, runs / "full", tmp_path / "c", max_tokens=3)


def test_card_says_what_is_in_it(world, runs, tmp_path):
    audit = build(world, runs / "full", tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert f"{audit['kept']} trajectories" in text and audit["sha256"] in text and "| tokens, prompt |" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "audit.json", "sft.parquet"]


def test_figures():
    assert percentiles([5]) == {"min": 5, "p50": 5, "p90": 5, "p99": 5, "max": 5}


@pytest.mark.parametrize(
    "bad", [{"setting": "all"}, {"within": -1}, {"spread": 0.5}, {"per_task": -1}, {"limit": -1}, {"max_tokens": 0}]
)
def test_bad_options(bad):
    with pytest.raises(StarError):
        SftOptions(**bad)


@pytest.mark.engine
def test_ms_swift_reads_the_set(world, runs, tmp_path):
    """Its loader takes every row and hands back our messages and tools unchanged."""
    swift = pytest.importorskip("swift.dataset")
    build(world, runs / "full", tmp_path)
    loaded, _ = swift.load_dataset(
        [str(tmp_path / "sft.parquet")], split_dataset_ratio=0, strict=True, shuffle=False, num_proc=1
    )
    written = rows(tmp_path)
    assert len(loaded) == len(written)
    for got, row in zip(loaded, written, strict=True):
        assert [(m["role"], m["content"]) for m in got["messages"]] == [
            (m["role"], m["content"]) for m in row["messages"]
        ]
        tools = got["tools"] if isinstance(got["tools"], list) else json.loads(got["tools"])
        assert [json.loads(t) if isinstance(t, str) else t for t in tools] == TOOL_SCHEMAS
