"""The chain on a small world, as far as it goes without an engine: what it writes, refuses and finds again."""

import shutil
from dataclasses import asdict, replace

import pyarrow.parquet as pq
import pytest

from star_rl.errors import StarError
from star_rl.evidence import EvidenceStore
from star_rl.pipeline import chain, recipe, runner
from star_rl.pipeline.stage import manifest_of, run_stage, source_digest
from star_rl.run import Run
from star_rl.trajectory import faults, from_messages, parse, ranking, render
from tests.fakes import small_recipe


@pytest.fixture(scope="module")
def taken(run, tmp_path_factory):
    """A copy of the small run, taken on to its untrained student: its recipe, its folder and how each stage went."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(run, folder / "small")
    loaded = small_recipe(folder)
    return loaded, folder / "small", runner.run(loaded, chain.STAGES, until="student")


def test_every_stage_leaves_a_manifest_with_its_figures(taken):
    _, folder, outcomes = taken
    assert [outcome.state for outcome in outcomes] == ["done"] * 6 + ["ran"] * 3
    for outcome in outcomes:
        manifest = manifest_of(folder / outcome.name)
        assert manifest["figures"]["summary"]
        assert manifest["outputs"], outcome.name


def test_training_has_a_seed_of_its_own():
    seeds = {stage.name: stage.seed for stage in chain.STAGES}
    assert [name for name, seed in seeds.items() if seed == "train_seed"] == [
        "student", "sft", "sample", "grpo_set", "grpo",
    ]  # fmt: skip
    assert [name for name, seed in seeds.items() if seed is None] == ["tables"]
    assert [stage.name for stage in chain.STAGES if "train_seed" in stage.config] == ["evaluate", "report"]


def test_a_second_run_finds_everything_done(taken):
    loaded, _, _ = taken
    assert {outcome.state for outcome in runner.run(loaded, chain.STAGES, until="student")} == {"done"}


def test_a_changed_option_runs_its_stage_and_what_reads_it(taken):
    loaded, _, _ = taken
    changed = recipe.Recipe(**{**loaded.__dict__, "prompt": type(loaded.prompt)(profile="compact", history=6, top=10)})
    states = {outcome.name: outcome.state for outcome in runner.run(changed, chain.STAGES, until="sft_set")}
    assert states == {
        "tables": "done", "tasks": "done", "neighbours": "done", "evidence": "done", "summaries": "done",
        "memory": "done", "teach": "ran", "sft_set": "ran",
    }  # fmt: skip
    runner.run(loaded, chain.STAGES, until="student")


def test_no_target_and_nothing_later_reaches_evidence_or_prompts(taken):
    loaded, folder, _ = taken
    world = Run(folder, asdict(loaded))
    visible = set(zip(*(world.visible[name].to_pylist() for name in ("user_id", "item_id")), strict=True))
    for part in ("train", "valid", "test"):
        for task in world.tasks(part):
            assert (task.user_id, task.ground_truth) not in visible
            assert task.ground_truth not in [event[0] for event in world.history(task)]
            shown = world.messages(task)[-1]["content"].split("Candidates:")[0].split()
            assert task.ground_truth not in shown
    with EvidenceStore.inspect(folder / "evidence" / "store") as store:
        assert store.manifest["targets"]["tasks"] == sum(len(world.tasks(part)) for part in ("train", "valid", "test"))


def test_the_sft_set_holds_well_formed_runs_that_hit(taken):
    loaded, folder, _ = taken
    truths = {task.task_id: task.ground_truth for task in Run(folder, asdict(loaded)).tasks("train")}
    rows = pq.read_table(folder / "sft_set" / "sft.parquet").to_pylist()
    assert rows
    for row in rows:
        trajectory = from_messages(row["messages"][2:])
        assert faults(trajectory, own_text=False) == []
        assert ranking(trajectory)[0] == truths[row["task_id"]]
        assert render(parse(render(trajectory))) == render(trajectory)


def test_the_tokenizer_gives_every_item_one_token(taken):
    from tokenizers import Tokenizer

    loaded, folder, _ = taken
    tokenizer = Tokenizer.from_file(str(folder / "student" / "model" / "tokenizer.json"))
    for item in Run(folder, asdict(loaded)).items:
        assert tokenizer.encode(item, add_special_tokens=False).tokens == [item]


def test_a_model_of_another_family_is_refused(taken, tmp_path):
    loaded, _, _ = taken
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    other = recipe.Recipe(**{**loaded.__dict__, "student": type(loaded.student)(path=str(tmp_path))})
    with pytest.raises(StarError, match="is a llama model"):
        runner.run(other, chain.STAGES, until="student")


@pytest.mark.parametrize(
    "override, says",
    [
        ("source.name=nowhere", "there is no source 'nowhere'"),
        ("source={name: movielens, root: /no/such/folder}", "there is no folder /no/such/folder"),
        ("source={name: movielens}", "needs root"),
        ("source.options.users=0", "users=0 is not valid"),
        ("split.options.test=some", "test='some' is not valid"),
        ("split.options.nope=1", "split.options.nope is not known"),
        ("split.options.min_history=500", "no test task is left"),
        ("neighbours.weight=loud", "loud"),
        ("teacher.options.rules.strategies={luck: 1}", "rules.strategies.luck is not known"),
        ("teacher.options.nope=1", "teacher.options.nope is not known"),
    ],
)
def test_what_a_stage_refuses_is_one_clear_line(tmp_path, override, says):
    with pytest.raises(StarError, match=says):
        runner.run(small_recipe(tmp_path, override), chain.STAGES, until="sft_set")


def test_replies_that_were_paid_for_outlive_a_changed_teacher(tmp_path):
    """``cache.sqlite`` names its own keys; the runs of the old configuration are moved aside."""
    seen = []

    def body(context):
        cache = context.folder / "cache.sqlite"
        seen.append(cache.read_text() if cache.exists() else None)
        cache.write_text("replies")
        (context.folder / "runs.jsonl").write_text("{}")
        return {}

    teach = replace(next(stage for stage in chain.STAGES if stage.name == "teach"), body=body, reads=())
    for passes, force in ((1, False), (2, False), (2, True)):
        run_stage(teach, tmp_path, {"passes": passes}, 7, lambda *_: None, force)
    assert seen == [None, "replies", "replies"]
    assert len(list(tmp_path.glob("teach.old-*/runs.jsonl"))) == 2


def test_every_stage_names_the_code_of_its_body():
    for stage in chain.STAGES:
        assert all(source_digest(name) for name in stage.code)
        home = stage.body.name.partition(":")[0]
        assert any(home == name or home.startswith(f"{name}.") for name in stage.code), stage.name
