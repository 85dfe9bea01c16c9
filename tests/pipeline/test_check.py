"""What is said of a recipe before its first stage: each fault with its option, its value and its remedy."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from star_rl import cli
from star_rl.errors import StarError
from star_rl.launch import submit
from star_rl.layers import recipe_path
from star_rl.pipeline import check
from star_rl.pipeline.check import check_recipe
from star_rl.pipeline.recipe import load
from star_rl.plan import plan_recipe

NAN = (
    "def compute_score(data_source, solution_str, ground_truth, extra_info):\n"
    "    return {'score': float('nan'), 'acc': 0.0}\n"
)
HOST = "teacher.options.chat.endpoints=[http://127.0.0.1:1/v1]"


def of(*overrides, chain="recipes/quickstart.yaml"):
    return load(chain, list(overrides))


@pytest.mark.engine
@pytest.mark.parametrize("name", sorted(path.stem for path in Path("recipes").glob("*.yaml")))
def test_every_recipe_that_ships_passes(name, tmp_path):
    recipe = of(chain=f"recipes/{name}.yaml")
    recipe.source.root = None if recipe.source.name == "synthetic" else str(tmp_path)
    if name == "pretrained":
        recipe.student.path = None  # `make pretrained` makes the model
    if recipe.teacher.backend == "llm":
        recipe.teacher.options["chat"] = {"endpoints": ["http://127.0.0.1:1/v1"]}
    check_recipe(recipe, "sft" if name == "planner" else None)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("sft.recipe=nope", "there is no recipe nope"),
        ("grpo.recipe=nope", "there is no recipe nope"),
        ("reward=nope", "reward=nope is unknown"),
        ("sft.overrides.learning_ratee=1e-5", "sft.overrides.learning_ratee is not known - did you mean learning_rate"),
        ("engine.options.max_model_lenn=9", "engine.options.max_model_lenn is not known - did you mean max_model_len"),
        ("loop.budget.responce_tokens=9", "loop.budget.responce_tokens is not known - did you mean response_tokens"),
        ("loop.budget.turns=0", "loop.budget.turns=0 is not valid - it should be at least 1"),
        ("split.options.tset=users", "split.options.tset is not known - did you mean test"),
        (
            "split.options.test=nonsense",
            "split.options.test='nonsense' is not valid - it should be 'users'",
        ),
        ("evaluate.methods=[marz]", "there is no method 'marz' - known: random"),
        ("tools.own=[nothing.py:Tool]", "there is no Python file nothing.py"),
        ("tools.own=[star_rl.tools:ToolBox]", "tools.own=star_rl.tools:ToolBox is no tool"),
        ("tools.own=['mcp:no-such-command']", "the MCP server no-such-command does not open"),
        ("loop.environment=examples/rejecting_user.py:Nobody", "there is no environment at"),
        ("loop.environment=star_rl.tools:ToolBox", "loop.environment=star_rl.tools:ToolBox is no environment"),
        ("teacher.options.rulez=1", "teacher.options.rulez is not known - did you mean rules"),
        ("teacher.options.rules.hasty=1", "teacher.options.rules.hasty is not known - did you mean haste"),
        ("student.shape.layer=1", "student.shape.layer is not known"),
        ("source=nowhere", "there is no source 'nowhere'"),
        ("source=movielens", "source.root is not set, and movielens reads files"),
        ("student.path=./none", "student.path=./none is no folder and no hub id"),
        ("student.path=/no/such/model", "student.path=/no/such/model is no folder"),
        ("student.path=Qwen3", "student.path=Qwen3 is no folder and no hub id"),
        ("teacher.backend=llm", "teacher.options.chat names no endpoint - set teacher.options.chat.endpoints="),
        (
            "grpo.overrides.verl.data.train_batch_size=17",
            "train_batch_size 17 is no multiple of ppo_mini_batch_size 16",
        ),
        ("grpo.overrides.verl.trainr.nnodes=2", "trainr"),
        ("grpo.overrides.verl.algorithm.filter_groups={enable: true, metric: hr}", "the reward returns no hr"),
        ("grpo.overrides.verl.trainer.v1.sampler.sync_refill_failed_groups=true", "a rollout that raises stops"),
        ("grpo.overrides.verl.data.max_response_length=512", "but the chain's loop.budget.response_tokens is 208"),
        ("grpo.overrides.verl.actor_rollout_ref.model.lora_rank=8", "hf_model in actor.checkpoint.save_contents"),
        ("sft.overrides.learning_rate=high", "sft.overrides.learning_rate=high is no number"),
        ("sft.overrides.bf16=yess", "sft.overrides.bf16=yess is no number"),
        ("student.tokenizer.max_phrase=9", "student.tokenizer.max_phrase is not known - did you mean max_phrases"),
        ("teacher.options.rounds=0", "teacher.options.rounds=0 is not valid"),
        ("teacher.options.rules=hasty", "teacher.options.rules=hasty is not a section"),
        ("teacher.options.rules.haste=2", "teacher.options.rules.haste=2 is not valid - it should be at most 1"),
        (
            "teacher.options.rules.strategies.luck=1",
            "teacher.options.rules.strategies.luck is not known - choose",
        ),
        ("summaries.by=magic", "summaries.by='magic' is not valid - it should be 'none', 'rules' or 'llm'"),
        ("summaries.words=501", "summaries.words=501 is not valid - it should be at most 500"),
        ("summaries.chat={endpoint: x}", "summaries.chat.endpoint is not known - did you mean endpoints"),
        ("prompt.budget=100", "prompt.budget=100 is not valid - it should be at least 500"),
        ("neighbours.weight=heavy", "neighbours.weight='heavy' is not valid - it should be 'cosine'"),
        (
            "engine.options.max_num_seqs=many",
            "engine.options.max_num_seqs='many' is not valid - it should be",
        ),
        ("engine.options.max_model_len=300", "engine.options.max_model_len=300 is less than prompt and response, 368"),
        ("grpo.overrides.verl=3", "verl=3 is not a section - write keys with values below it"),
        ("grpo.overrides.verl.trainer=7", "verl.trainer=7 is not a section"),
        ("grpo.overrides.verl.data=5", "verl.data=5 is not a section"),
        ("grpo.overrides.env=3", "env=3 is not a section"),
        ("grpo.overrides.device=tpu", "device='tpu' is not valid - it should be 'auto', 'cpu', 'cuda' or 'npu'"),
        ("grpo.overrides.verl.data.train_batch_size=many", "verl.data.train_batch_size=many is not a positive integer"),
        (
            "grpo.overrides.verl.actor_rollout_ref.actor.ppo_mini_batch_size=0",
            "ppo_mini_batch_size=0 is not a positive",
        ),
        ("grpo.overrides.verl.actor_rollout_ref.rollout.n=null", "rollout.n=None is not a positive"),
        ("sft.overrides.ENV.NPROC_PER_NODE=gpu", "NPROC_PER_NODE=gpu is no number - write how many GPUs"),
        ("sft.overrides.ENV.NPROC_PER_NODE=0", "NPROC_PER_NODE=0 is no number"),
        ("sft.overrides.ENV=3", "SFT recipe: ENV=3 names no variables"),
        ("loop.budget.response_tokens=8192", "max_model_len 512 is less than prompt and response, 8,352"),
    ],
)
def test_a_fault_is_told_before_anything_starts(override, says):
    with pytest.raises(StarError) as caught:
        check_recipe(of(override))
    assert says in str(caught.value)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["prompt.budget=9000"], "max_model_len 14,208 is less than prompt and response, 17,192"),
        (["prompt.budget=9000", "loop.prompt_tokens=6000"], "prompt.budget=9000 is more than loop.prompt_tokens=6000"),
        (
            ["grpo.overrides.verl.data.max_prompt_length=9000"],
            "but the chain's prompt.budget is 6000 - set prompt.budget",
        ),
        (
            ["engine.options.max_model_len=9000"],
            "engine.options.max_model_len=9000 is less than prompt and response, 14,192",
        ),
        (
            ["grpo.overrides.verl.trainer.test_freq=5", "grpo_set.validation=0"],
            "no validation set - set grpo_set.valid",
        ),
        (
            ["grpo.overrides.verl.actor_rollout_ref.model.use_fused_kernels=true"],
            "use_fused_kernels: true fails with FSDP2",
        ),
        (["sft.overrides.padding_free=false"], "per_device_train_batch_size=2 fails in its first step - set padding_f"),
        (["sft.overrides.attn_impl=sdpa"], "need flash attention, attn_impl is sdpa - set attn_impl: flash_attn"),
        (["grpo.steps=40"], "40 steps are wanted, 1 epoch(s) of 500 rows have 31"),
        (["source.root=/no/such/folder"], "source.root=/no/such/folder is not there"),
    ],
)
def test_lengths_steps_and_places_of_the_paper_s_setting(overrides, says, tmp_path):
    with pytest.raises(StarError) as caught:
        check_recipe(of(f"source.root={tmp_path}", HOST, *overrides, chain="recipes/amazon.yaml"))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("seen", "overrides", "until", "says"),
    [
        ("", [], None, "stage sft wants 1 node(s) with 8 GPU(s), this machine has 0 - star-rl submit"),
        ("0,1,2,3,4,5,6,7", [], None, "stage grpo wants 2 node(s) with 8 GPU(s), this machine has 8"),
        ("0,1,2,3,4,5,6,7", ["grpo.recipe=recipes/grpo/gpu8.yaml"], None, None),
        ("0", ["grpo.recipe=recipes/grpo/gpu1.yaml", "sft.recipe=recipes/sft/gpu1.yaml"], None, None),
        ("-1", ["grpo.recipe=recipes/grpo/gpu1.yaml", "sft.recipe=recipes/sft/gpu1.yaml"], None, "machine has 0"),
        ("", [], "teach", None),
        ("", ["grpo.overrides.ray.address=auto"], None, None),
    ],
)
def test_a_machine_that_is_too_small_is_told_before_the_teacher_works(seen, overrides, until, says, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    recipe = of("source.root=/d", *overrides, chain="recipes/amazon.yaml")
    if says is None:
        check.check_machine(recipe, until)
        return
    with pytest.raises(StarError) as caught:
        check.check_machine(recipe, until)
    assert says in str(caught.value)
    check.check_machine(of())


def test_a_recipe_for_gpus_is_not_begun_without_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = ["run", "recipes/amazon.yaml", f"source.root={tmp_path}", HOST, f"out={tmp_path}"]
    assert cli.main(arguments) == 2
    assert "stage sft wants 1 node(s) with 8 GPU(s)" in capsys.readouterr().err
    assert not (tmp_path / "amazon").exists()


def test_a_reward_that_breaks_its_contract_is_refused_and_loads_no_engine(tmp_path, capsys):
    (tmp_path / "nan.py").write_text(NAN)
    arguments = ["run", "recipes/quickstart.yaml", f"reward={tmp_path / 'nan.py'}", f"out={tmp_path}"]
    assert cli.main([*arguments, "--until", "tables"]) == 2
    assert "score=nan" in capsys.readouterr().err
    assert not (tmp_path / "quickstart").exists()


@pytest.mark.engine
def test_the_recipe_that_the_documentation_shows_passes(tmp_path):
    block = next(part for part in Path("docs/data.md").read_text().split("```yaml\n") if "Qwen/Qwen3-8B" in part)
    shutil.copytree("recipes", tmp_path / "recipes")
    (tmp_path / "recipes/mine.yaml").write_text(block.split("```")[0])
    check_recipe(load(tmp_path / "recipes/mine.yaml"))


@pytest.mark.parametrize(
    ("chat", "says"),
    [
        ({"endpoints": ["teacher:8000"]}, "teacher.options.chat.endpoints=teacher:8000 is not a URL"),
        (
            {"endpoints": "http://h/v1", "retries": -1},
            "teacher.options.chat.retries=-1 is not valid",
        ),
        ({"endpoints": ["http://h/v1"], "modell": "x"}, "teacher.options.chat.modell is not known"),
    ],
)
def test_what_the_teacher_is_asked_by_is_held_to_its_ranges(chat, says):
    recipe = of("teacher.backend=llm")
    recipe.teacher.options["chat"] = chat
    with pytest.raises(StarError) as caught:
        check_recipe(recipe)
    assert says in str(caught.value)
    recipe.teacher.options |= {"chat": {"endpoints": "http://127.0.0.1:1/v1"}, "planner_chat": {"model": "x"}}
    with pytest.raises(StarError, match="planner_chat names no endpoint"):
        check_recipe(recipe)


@pytest.mark.engine
def test_what_a_later_stage_wants_may_be_open_until_then(tmp_path):
    recipe = of("teacher.backend=llm")
    check_recipe(recipe, "evidence")
    with pytest.raises(StarError, match="names no endpoint"):
        check_recipe(recipe, "teach")
    here = of("source=movielens", "source.root=/only/on/the/cluster", "student.path=/only/on/the/cluster/Qwen3-8B")
    check_recipe(here, here=False)
    with pytest.raises(StarError, match="is not there"):
        check_recipe(here)


@pytest.mark.engine
def test_a_planner_is_no_student_to_sample_from():
    recipe = of(chain="recipes/planner.yaml")
    check_recipe(recipe, "sft")
    for until in ("sample", None):
        with pytest.raises(StarError, match="plans and ranks nothing - end with it: --until sft"):
            check_recipe(recipe, until)


@pytest.mark.engine
def test_submit_and_plan_ask_the_same(tmp_path):
    with pytest.raises(StarError, match="names no endpoint"):
        submit.prepare(of("source.root=/d", f"out={tmp_path}", chain="recipes/amazon.yaml"), Path.cwd())
    assert plan_recipe("recipes/amazon.yaml")
    with pytest.raises(StarError, match="learning_ratee"):
        plan_recipe("recipes/amazon.yaml", ["sft.overrides.learning_ratee=1"])
    (_, grpo) = plan_recipe("recipes/amazon.yaml", ["prompt.budget=9000"])
    assert "max_model_len 14,208 is less than prompt and response, 17,192" in "\n".join(grpo.problems)


@pytest.mark.engine
def test_no_model_library_is_imported():
    code = (
        "import sys\nfrom star_rl.pipeline.recipe import load\nfrom star_rl.pipeline.check import check_recipe\n"
        "check_recipe(load('recipes/quickstart.yaml'))\n"
        "heavy = ('torch', 'transformers', 'ray', 'verl', 'vllm', 'swift', 'pandas')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.engine
def test_the_arguments_of_ms_swift_are_read_as_they_are():
    code = (
        "import dataclasses, json\nfrom swift.arguments import SftArguments\n"
        "print('FIELDS', json.dumps([field.name for field in dataclasses.fields(SftArguments)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("FIELDS"))
    real = set(json.loads(line.split(" ", 1)[1]))
    assert real <= set(check.sft_keys()) and len(set(check.sft_keys()) - real) < 20


def test_without_ms_swift_its_keys_are_left_to_it(monkeypatch):
    check.sft_keys.cache_clear()
    monkeypatch.setattr(check, "_SWIFT_ARGUMENTS", (("no_such_package", "x"),))
    try:
        assert check.sft_keys() == {}
        check.hold_sft_keys({"anything": 1}, "sft.overrides")
    finally:
        check.sft_keys.cache_clear()


def test_the_default_recipe_names_overlays_that_exist(tmp_path):
    (tmp_path / "empty.yaml").write_text("{}\n")
    recipe = load(tmp_path / "empty.yaml")
    assert recipe_path(recipe.grpo.recipe).is_file() and recipe_path(recipe.sft.recipe).is_file()


@pytest.mark.engine
def test_the_local_reward_of_another_folder_is_found(tmp_path, monkeypatch):
    shutil.copytree("recipes", tmp_path / "recipes")
    (tmp_path / "mine.py").write_text(NAN.replace("float('nan')", "float(solution_str.count('100'))"))
    monkeypatch.chdir(tmp_path)
    check_recipe(of("reward=mine.py"))
