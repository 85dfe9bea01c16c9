"""The rehearsal of the paper's recipes: sizes and device alone are changed, and the stand-ins are what they claim."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from benchmarks.rehearsal.__main__ import overrides, sizes, teacher
from benchmarks.rehearsal.data import DOMAINS, SETS, generate
from benchmarks.rehearsal.invariants import Rehearsed, report
from benchmarks.rehearsal.teacher import answer, ranked
from star_rl.integrations import processes
from star_rl.integrations.swift.recipe import layered
from star_rl.integrations.verl.recipe import load_recipe
from star_rl.pipeline.overlays import SFT_KNOBS
from star_rl.pipeline.recipe import load
from tests.fakes import star_rl

FOLDER = Path(__file__).parents[2] / "benchmarks" / "rehearsal"
#: What may differ from a recipe: how much is done, and on what.
SIZES = {
    "teacher.tasks", "sft.recipe", "sft.overrides.use_liger_kernel", "loop.budget.response_tokens", "engine.in_flight",
    "engine.options.max_model_len", "engine.options.max_num_seqs", "sample.instances", "grpo_set.total",
    "grpo_set.validation", "grpo.recipe", "grpo.steps", "evaluate.tasks",
}  # fmt: skip
SFT_SIZES = {
    "ENV", "use_cpu", "deepspeed", "torch_dtype", "bf16", "fp16", "attn_impl", "padding_free", "use_liger_kernel",
    "use_logits_to_keep", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "dataset_num_proc",
    "dataloader_num_workers", "report_to",
}  # fmt: skip
_MODEL, _ACTOR, _ROLLOUT = (f"verl.actor_rollout_ref.{part}" for part in ("model", "actor", "rollout"))
GRPO_SIZES = {
    "device", "env.THP_MEM_ALLOC_ENABLE", "verl.data.train_batch_size", f"{_MODEL}.use_remove_padding",
    f"{_MODEL}.enable_gradient_checkpointing", f"{_MODEL}.use_fused_kernels", f"{_ACTOR}.ppo_mini_batch_size",
    f"{_ACTOR}.ppo_max_token_len_per_gpu", f"{_ACTOR}.fsdp_config.fsdp_size", f"{_ACTOR}.fsdp_config.optimizer_offload",
    f"{_ACTOR}.fsdp_config.forward_prefetch", f"{_ROLLOUT}.n", f"{_ROLLOUT}.tensor_model_parallel_size",
    f"{_ROLLOUT}.max_num_seqs", f"{_ROLLOUT}.max_model_len", f"{_ROLLOUT}.max_num_batched_tokens",
    f"{_ROLLOUT}.agent.num_workers", f"{_ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes",
    "verl.actor_rollout_ref.ref.fsdp_config.fsdp_size", "verl.actor_rollout_ref.ref.fsdp_config.forward_prefetch",
    "verl.trainer.nnodes", "verl.trainer.n_gpus_per_node", "verl.trainer.save_freq",
}  # fmt: skip


def dotted(tree):
    """Dotted names of the leaves of a nested mapping, with their values."""
    return dict(pair.split("=", 1) for pair in overrides(tree))


def overlay(name):
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_recipe_itself_runs_with_sizes_and_device_changed(domain):
    before, after = (dotted(asdict(load(domain, given))) for given in ([], sizes()))
    assert {name for name in after if after[name] != before.get(name)} <= SIZES
    assert {name for name in before if name not in after} == set()


def test_the_overlays_change_sizes_and_device_alone():
    assert {pair.split("=", 1)[0] for pair in sizes()} <= SIZES
    assert set(overlay("sft_cpu.yaml")) <= SFT_SIZES
    grpo = overlay("grpo_cpu.yaml")
    assert grpo.pop("base") == "grpo/table5" and set(dotted(grpo)) <= GRPO_SIZES


def test_what_the_paper_s_tables_set_stays():
    table4, rehearsed = layered(["sft/table4"]), layered(["sft/table4", FOLDER / "sft_cpu.yaml"])
    kept = ("learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_length", "num_train_epochs")
    assert [rehearsed[name] for name in kept] == [table4[name] for name in kept]
    assert "learning_rate" not in SFT_KNOBS
    table5, own = load_recipe("grpo/table5").verl, load_recipe(FOLDER / "grpo_cpu.yaml").verl
    for name in ("optim", "use_kl_loss", "kl_loss_coef", "use_dynamic_bsz"):
        assert own["actor_rollout_ref"]["actor"][name] == table5["actor_rollout_ref"]["actor"][name]
    assert own["actor_rollout_ref"]["rollout"]["temperature"] == table5["actor_rollout_ref"]["rollout"]["temperature"]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("rehearsal") / "data", 7)


def test_the_data_hold_every_domain_set_and_scenario(benchmark):
    for tables in SETS:
        for table in ("item", "review", "user"):
            rows = [json.loads(line) for line in (benchmark / f"output_data_{tables}" / f"{table}.json").open()]
            assert {row["source"] for row in rows} == set(DOMAINS)
    tasks = Counter((path.parts[-4], path.parts[-3]) for path in benchmark.glob("task/*/*/tasks/*.json"))
    assert set(tasks) == {(name, domain) for names in SETS.values() for name in names for domain in DOMAINS}
    again = benchmark.parent / "again"
    assert all(
        (generate(again, 7) / file.relative_to(benchmark)).read_bytes() == file.read_bytes()
        for file in benchmark.rglob("*.json")
    )


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_domain_s_recipe_reads_the_data_up_to_its_evidence(benchmark, tmp_path, domain, capsys):
    given = [f"source.root={benchmark}", f"out={tmp_path}", "teacher.options.chat.endpoints=[http://127.0.0.1:9/v1]"]
    assert star_rl("run", domain, *given, "--until", "evidence") == 0
    tables = json.loads((tmp_path / domain / "tables" / "manifest.json").read_text())["figures"]
    assert set(tables["dropped"]["interactions"]) == {"other domain"} and not tables["bad_rows"]
    checks = dict(Rehearsed(tmp_path / domain, tmp_path).checks())
    assert not checks["every stage ended"]()[0] and not checks["all five scenarios are tested"]()[0]


PROMPT = """# User u1
# Record: oldest first
2020-01-01 | a1 | Garden Line 1 No 1 | rated 5
2020-01-02 | a2 | Garden Line 1 No 2 | rated 5

# Candidate products
b1 | Audio Line 1 No 4 | Audio
b2 | Garden Line 1 No 3 | Garden"""


def test_the_scripted_teacher_ranks_by_the_record_and_repeats_itself():
    assert ranked(PROMPT) == ["b2", "b1"]
    system = {"role": "system", "content": "You make the final choice. Give the result inside <JSON>"}
    messages = [system, {"role": "user", "content": PROMPT}]
    assert '["b2", "b1"]' in answer(messages, True)["content"]
    assert answer(messages, True) == answer(messages, True)


def test_the_scripted_teacher_calls_tools_once_and_summarises_in_plain_words():
    expert = {"role": "system", "content": "You look at the latest. Result in <JSON>"}
    asked = answer([expert, {"role": "user", "content": PROMPT}], True)
    called = asked["tool_calls"][0]["function"]
    assert (called["name"], json.loads(called["arguments"])) == ("ItemCF", {"item_id": "a2"})
    tool = {"role": "tool", "content": "1. Garden"}
    assert "tool_calls" not in answer([expert, {"role": "user", "content": PROMPT}, asked, tool], True)
    said = answer([{"role": "system", "content": "Keep a summary."}, {"role": "user", "content": PROMPT}], False)
    assert "Garden" in said["content"] and "<" not in said["content"]


def test_an_invariant_that_cannot_be_checked_is_a_failed_one(run, tmp_path, capsys):
    assert not report(Rehearsed(run, tmp_path))
    said = capsys.readouterr().out
    assert "FAILED every stage ended: absent: teach" in said and "FAILED GRPO took its steps" in said
    assert "ok     every drop is counted" in said


def test_the_scripted_teacher_serves_while_it_is_needed_and_a_taken_port_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match="give another --port"), teacher(port, tmp_path):
            pass
    with teacher(port, tmp_path) as address:
        models = json.load(urllib.request.urlopen(f"{address}/models"))
    assert models["data"][0]["id"] == "scripted-teacher"
    assert processes.members(tmp_path) == []
