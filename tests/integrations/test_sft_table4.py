"""Table 4's settings through ms-swift on a CPU, stand-ins (tests/stand_ins) in the place of GPU kernels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from star_rl.integrations.swift.recipe import BASE, OFFLINE, arguments, compose
from star_rl.layers import RECIPES
from star_rl.student.template import render
from star_rl.student.tokenizer import train_tokenizer

pytestmark = pytest.mark.engine

STAND_INS = Path(__file__).parents[1] / "stand_ins"
#: Over a GPU's recipe: only what a CPU cannot do, and an end after four steps.
ON_A_CPU = {
    "ENV": {"NPROC_PER_NODE": None},
    "use_cpu": True,
    "bf16": False,
    "torch_dtype": "float32",
    "deepspeed": None,
    "max_steps": 4,
    "logging_steps": 1,
    "dataset_num_proc": 1,
    "dataloader_num_workers": 0,
    "report_to": ["none"],
}
ENVIRONMENT = {**os.environ, **OFFLINE, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def row(seed: int) -> dict:
    return {
        "messages": [
            {"role": "user", "content": "History:" + " item" * (1 + seed % 7)},
            {"role": "assistant", "content": f"<recommend>{seed % 20}</recommend>"},
        ]
    }


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    from star_rl.student.model import StudentShape, make_student

    out = tmp_path_factory.mktemp("student")
    train_tokenizer([render(row(seed)["messages"], None) for seed in range(60)], [str(i) for i in range(20)], out)
    make_student(out, out, StudentShape(hidden_size=32, intermediate_size=64, head_dim=16, max_length=512))
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "sft.parquet"
    pq.write_table(pa.Table.from_pylist([row(seed) for seed in range(64)]), path)
    return path


def test_sft_recipes_become_ms_swift_s_arguments(student, data, tmp_path):
    """With liger as it is installed; DeepSpeed wants a launcher and is left out."""
    argvs = []
    for file in sorted((RECIPES / "sft").glob("*.yaml")):
        config = compose([file], data=data, out=tmp_path / "out", model=student) | {"use_cpu": True}
        config.pop("deepspeed", None)
        argvs.append(arguments(config))
    (tmp_path / "argv.json").write_text(json.dumps(argvs))
    script = f"""
import json
from swift.arguments import SftArguments
from swift.utils import parse_args
for argv in json.load(open({str(tmp_path / "argv.json")!r})):
    args, rest = parse_args(SftArguments, argv)
    assert not rest, rest
    print("RESULT", args.learning_rate)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT | BASE["ENV"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("RESULT") == len(argvs)


def steps(
    out: Path, student: Path, data: Path, overrides: dict, plugins: list[str], recipe: str = "table4"
) -> tuple[list[float], str]:
    """Loss and gradient norm of each of ms-swift's steps, and all that it printed."""
    config = compose([f"sft/{recipe}", ON_A_CPU, overrides], data=data, out=out / "swift", model=student)
    config["external_plugins"] += plugins
    file = out / "sft.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "swift.cli.main", "sft", str(file)],
        env=ENVIRONMENT | config["ENV"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    logged = map(json.loads, (out / "swift" / "logging.jsonl").read_text().splitlines())
    return [line[key] for line in logged if "loss" in line for key in ("loss", "grad_norm")], done.stdout


def test_table_4_with_liger_and_packed_attention_is_table_4_without(student, data, tmp_path):
    kernels = {"use_liger_kernel": True, "attn_impl": "flash_attn", "padding_free": True}
    fast, said = steps(tmp_path / "fast", student, data, kernels, [str(STAND_INS / "no_gpu.py")])
    assert "stand-in: liger's forward" in said and "stand-in: attention over 2 packed sequences" in said
    plain = {"use_liger_kernel": False, "attn_impl": "sdpa", "padding_free": False}
    slow, _ = steps(tmp_path / "slow", student, data, plain, [])
    assert len(fast) == 8
    assert fast == pytest.approx(slow, abs=1e-3)


@pytest.mark.parametrize("recipe", ["section41", "lora", "zero3_offload"])
def test_an_overlay_takes_a_step_with_its_settings(student, data, tmp_path, recipe):
    """``gpu1`` has ``zero3_offload``'s micro-batch of one; a model's overlay is Table 4 with its name."""
    found, said = steps(tmp_path / "run", student, data, {"max_steps": 1}, [str(STAND_INS / "no_gpu.py")], recipe)
    assert len(found) == 2 and all(value > 0 for value in found)
    assert "stand-in: liger's forward" in said
