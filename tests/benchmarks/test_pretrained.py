"""What `make pretrained` converts and prints."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.pretrained import report, speeds
from star_rl.training.student import given_student

ROOT = Path(__file__).parents[2]
CONVERTS = ROOT / ".bench" / "pretrained" / "bin" / "python"


def write(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path):
    """A run of 4 rows of 2,000 tokens in 40 s, 2 samples of 100 tokens in 50 s, and two GRPO steps of 2 rollouts."""
    write(tmp_path / "sft" / "manifest.json", {"seconds": 60.0, "figures": {"tokens_per_row": 2000.0}})
    losses = [{"loss": loss, "global_step/max_steps": f"{step}/2"} for step, loss in ((1, 1.25), (2, 0.5))]
    trained = {"train_runtime": 40.0, "train_samples_per_second": 0.1}
    write(tmp_path / "sft" / "swift" / "logging.jsonl", *losses, trained, {"memory": 0})
    write(tmp_path / "sample" / "manifest.json", {"seconds": 50.0, "figures": {}})
    write(tmp_path / "sample" / "rollouts.jsonl", *[{"counts": {"model_tokens": 100.0}}] * 2)
    step = {"perf/total_num_tokens": 4000, "rollout/model_tokens/mean": 50.0}
    step |= {"timing_s/gen": 10.0, "timing_s/old_log_prob": 8.0, "timing_s/update_actor": 20.0}
    write(tmp_path / "grpo" / "metrics.jsonl", step, step)
    for number in (1, 2):
        write(tmp_path / "grpo" / "details" / f"{number}.jsonl", {}, {})
    row = {"format_rate": 0.25, "valid_rate": 0.5, "hr1": 0.0, "hr5": 25.0, "hr_avg": 12.5, "n": 4}
    write(tmp_path / "zero_shot" / "metrics.json", {"methods": [{"name": "pretrained", **row}]})
    others = [{"name": "random", **row, "format_rate": None}, {"name": "sft", **row}, {"name": "star", **row}]
    write(tmp_path / "evaluate" / "metrics.json", {"methods": others})
    return tmp_path


def test_tokens_a_second_are_those_of_each_part_s_own_time(run):
    assert list(speeds(run).values()) == [200.0, 4.0, 10.0, 500.0, 200.0]


def test_the_report_has_a_line_for_each_state_of_the_model(run):
    lines = report(run).splitlines()
    assert [line[:13].rstrip() for line in lines[1:4]] == ["as pretrained", "after SFT", "after GRPO"]
    assert lines[1].split()[2:] == ["25.0", "50.0", "0.0", "25.0", "12.5", "4"]
    assert "loss of SFT: 1.250 in the first step, 0.500 in the last of 2" in lines
    assert lines[-1] == "sample 0.8 min, sft 1.0 min"


@pytest.mark.slow
@pytest.mark.skipif(not CONVERTS.exists(), reason="make pretrained makes the environment that converts")
def test_the_converted_model_has_its_own_tokens_and_template(tmp_path):
    from transformers import AutoTokenizer

    subprocess.run([CONVERTS, ROOT / "benchmarks" / "gguf_model.py", tmp_path], check=True)
    assert given_student(str(tmp_path)) == "llama" and (tmp_path / "model.safetensors").stat().st_size > 500e6
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.tokenize("x\n\n  12") == ["x", "ĊĊĠĠ", "1", "2"]  # digits are split off first
    text = "<|im_start|>user\nCafé ▁ 漢 1,170  .<|im_end|>\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "SmolLM" in tokenizer.chat_template
