"""The runner of ms-swift: rows that are too long, failures, a real run, a kill and a resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_rl import locks
from star_rl.errors import StarError
from star_rl.integrations import processes
from star_rl.integrations.swift import sft
from star_rl.integrations.swift.recipe import BASE, OFFLINE, arguments, compose
from star_rl.student.template import render
from star_rl.student.tokenizer import train_tokenizer
from tests.integrations.test_swift_recipe import LISTS

TOOLS = json.dumps([{"type": "function", "function": {"name": "ItemCF", "parameters": {"type": "object"}}}])


def row(seed: int, filler: int = 0) -> dict:
    item = str(20 + seed % 20)
    call = json.dumps({"name": "ItemCF", "arguments": {"item_id": item}})
    return {
        "messages": [
            {"role": "system", "content": "Rank."},
            {"role": "user", "content": f"History: {item}." + " é" * filler},
            {"role": "assistant", "content": f"<plan>\n</plan>\n<tool_call>\n{call}\n</tool_call>"},
            {"role": "tool", "content": f"Often with {(seed * 7) % 20 + 20}."},
            {"role": "assistant", "content": f'<recommend>\n<JSON>["{(seed * 7) % 20 + 20}"]</JSON>\n</recommend>'},
        ],
        "tools": TOOLS,
    }


def write_set(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    from star_rl.student.model import StudentShape, make_student

    out = tmp_path_factory.mktemp("student")
    train_tokenizer([render(**row(s)) for s in range(60)], [str(i) for i in range(20, 40)], out)
    make_student(out, out, StudentShape(hidden_size=32, intermediate_size=64, head_dim=16, max_length=512))
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("data") / "sft.parquet", [row(s) for s in range(64)])


@pytest.mark.engine
def test_ms_swift_accepts_every_recipe(student, data, tmp_path):
    """SftArguments of each composed recipe; the weights are the tiny ones and the device is the CPU."""
    script = f"""
import json, sys
from swift.arguments import SftArguments
from swift.trainers.arguments import TrainArgumentsMixin
from swift.utils import parse_args
assert callable(TrainArgumentsMixin._init_liger)
TrainArgumentsMixin._init_liger = lambda self: None  # it looks for the kernels, which the extra `gpu` alone installs
for argv in json.load(open({str(tmp_path / "argv.json")!r})):
    args, rest = parse_args(SftArguments, argv)
    assert not rest, rest
    print("RESULT", json.dumps([args.template, args.learning_rate, args.per_device_train_batch_size,
        args.gradient_accumulation_steps, args.max_length, str(args.tuner_type), args.optimizer,
        args.training_args.use_liger_kernel]))
"""
    argvs = []
    for recipe in LISTS:
        config = compose(recipe, data=data, out=tmp_path / "out", model=student)
        config |= {"use_cpu": True}
        config.pop("deepspeed", None)  # it needs its launcher; the slow test runs it for real
        argvs.append(arguments(config))
    (tmp_path / "argv.json").write_text(json.dumps(argvs))
    env = {**os.environ, **BASE["ENV"], **OFFLINE, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(seen) == len(LISTS)
    by_name = {"+".join(r): s for r, s in zip(LISTS, seen, strict=True)}
    assert by_name["sft/table4"] == ["star", 1e-5, 2, 4, 16384, "full", None, True]
    assert by_name["sft/tiny_cpu"][6:] == ["star_muon", False]
    assert by_name["sft/table4+sft/lora"][5] == "lora"


def test_long_rows_are_counted(student, tmp_path):
    path = write_set(tmp_path / "d.parquet", [row(1), row(2, 400), row(3), row(4, 401)])
    kept, rows, dropped, mean = sft.sieve_long_rows(path, student, 200, tmp_path / "kept.parquet")
    assert (kept.name, rows, dropped) == ("kept.parquet", 2, 2)
    assert pq.read_table(kept).num_rows == 2
    assert 10 < mean < 200
    assert sft.sieve_long_rows(path, student, 5000, tmp_path / "k2.parquet")[0] == path
    with pytest.raises(StarError, match="max_length=3"):
        sft.sieve_long_rows(path, student, 3, tmp_path / "k3.parquet")


def test_bad_sets(student, tmp_path):
    with pytest.raises(StarError, match="no SFT set"):
        sft.sieve_long_rows(tmp_path / "none.parquet", student, 10, tmp_path / "k")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(StarError, match="is no Parquet file"):
        sft.sieve_long_rows(tmp_path / "text.parquet", student, 10, tmp_path / "k")
    for wrong in ({"messages": ["x"]}, {"tools": ["x"]}):
        pq.write_table(pa.table(wrong), tmp_path / "half.parquet")
        with pytest.raises(StarError, match="no column 'messages'"):
            sft.sieve_long_rows(tmp_path / "half.parquet", student, 10, tmp_path / "k")


def test_newest_checkpoint_skips_what_was_cut_off(tmp_path):
    assert sft.newest_checkpoint(tmp_path) == (None, 0)
    for step in (5, 10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step < 20:
            state = {"global_step": step}
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    assert sft.newest_checkpoint(tmp_path) == (tmp_path / "checkpoint-10", 10)
    assert not (tmp_path / "checkpoint-20").exists()


def test_finished_is_told_from_cut_off(tmp_path):
    def state(**values):
        (tmp_path / "trainer_state.json").write_text(json.dumps(values))
        return tmp_path

    done = state(global_step=10, max_steps=10, num_train_epochs=2)
    assert sft.finished(done, {"max_steps": 10})
    assert not sft.finished(done, {"max_steps": 20})
    assert sft.finished(done, {"num_train_epochs": 2})
    assert not sft.finished(done, {"num_train_epochs": 4})
    assert not sft.finished(state(global_step=9, max_steps=10, num_train_epochs=2), {"num_train_epochs": 2})


SHORT = {"max_steps": 8, "per_device_train_batch_size": 4, "save_steps": 4, "logging_steps": 2}
TEST_ENV = {"OMP_NUM_THREADS": "1"}


class Reached(Exception):
    """Everything before ms-swift went well."""


@pytest.fixture
def no_engine(monkeypatch):
    """Stops where ms-swift would start; holds its configuration."""
    seen = {}

    def watch(config, *_):
        seen.update(config)
        raise Reached

    monkeypatch.setattr(sft, "_watch", watch)
    return seen


def test_rows_are_counted_for_a_model_of_the_hub_as_well(student, no_engine, tmp_path, monkeypatch):
    import transformers

    asked, real = [], transformers.AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda name: asked.append(name) or real(str(student))
    )
    path = write_set(tmp_path / "d.parquet", [row(1), row(2, 400), row(3)])
    with pytest.raises(Reached):
        sft.run_sft(["sft/tiny_cpu", {"max_length": 200}], data=path, model="Qwen/Qwen3-8B", out=tmp_path / "run")
    assert asked == ["Qwen/Qwen3-8B"]
    assert no_engine["dataset"] == [str(tmp_path / "run" / "train.parquet")]
    assert pq.read_table(no_engine["dataset"][0]).num_rows == 2

    def absent(name):
        raise OSError(f"{name} is not a local folder\nand not on the hub")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", absent)
    with pytest.raises(StarError, match=r"no tokenizer of Qwen/Qwen3-8B .*is not a local folder"):
        sft.run_sft(["sft/tiny_cpu"], data=path, model="Qwen/Qwen3-8B", out=tmp_path / "run")


def test_without_a_limit_every_row_is_kept_and_counted(student, tmp_path):
    path = write_set(tmp_path / "d.parquet", [row(1), row(2, 400)])
    assert sft.sieve_long_rows(path, student, sys.maxsize, tmp_path / "kept.parquet")[:3] == (path, 2, 0)


WRITES = """
import json, sys, time
with open(sys.argv[1], "a") as journal:
    for step, loss in enumerate(json.loads(sys.argv[2]), 1):
        journal.write(json.dumps({"loss": loss, "global_step/max_steps": f"{step}/9"}) + chr(10))
if "hang" in sys.argv:
    time.sleep(600)
"""
NAN = float("nan")


def watch(monkeypatch, folder, losses, *more):
    """Follows a stand-in for ms-swift that logs `losses`."""
    work = folder / "swift"
    work.mkdir()
    argv = [sys.executable, "-c", WRITES, str(work / "logging.jsonl"), json.dumps(losses), *more]
    monkeypatch.setattr(sft, "command", lambda *_: argv)
    return sft._watch({"ENV": {}}, folder / "sft.yaml", folder / "swift.log", work, {}, None)


def test_a_run_whose_journal_stands_still_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(sft, "SILENCE", 0.1)
    with pytest.raises(StarError, match=r"(?s)ms-swift hangs: no line in .*logging\.jsonl for .*swift\.log"):
        watch(monkeypatch, tmp_path, [0.5, 0.4], "hang")
    assert not processes.members(tmp_path)


def test_silence_is_measured_against_the_run_s_own_pace():
    pulse = sft._Pulse()
    assert not pulse.silent(1e6), "loading may take its time"
    pulse.beat(1e6)
    assert not pulse.silent(2e6), "one line tells no pace"
    pulse.beat(1e6 + 10)
    assert not pulse.silent(1e6 + 1800) and pulse.silent(1e6 + 1811)
    pulse.beat(1e6 + 1010)
    assert not pulse.silent(1e6 + 11000) and pulse.silent(1e6 + 11011)


def test_a_loss_that_is_no_number_three_times_ends_the_run(monkeypatch, tmp_path):
    with pytest.raises(StarError, match=r"the loss of SFT is nan since step 3, .*lower learning_rate"):
        watch(monkeypatch, tmp_path, [NAN, float("inf"), 0.5, NAN, NAN, NAN], "hang")


def test_one_loss_that_is_no_number_does_not(monkeypatch, tmp_path):
    assert watch(monkeypatch, tmp_path, [0.5, NAN, NAN, 0.4]) == (4, 0.4)


LAUNCHER = """
import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(worker.pid, flush=True)
time.sleep(600)
"""


def test_workers_that_outlive_a_killed_driver_are_ended_before_the_next_run(student, data, no_engine, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    driver = (
        "import sys, time; from pathlib import Path; from star_rl.integrations.processes import running\n"
        f"run = Path({str(out)!r})\n"
        f"with running([sys.executable, '-c', {LAUNCHER!r}], {{}}, run, run / 'swift.log'):\n"
        "    time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", driver])
    until = time.monotonic() + 60
    while not ((out / "swift.log").is_file() and (out / "swift.log").read_text().endswith("\n")):
        assert time.monotonic() < until
        time.sleep(0.05)
    worker = int((out / "swift.log").read_text())
    parent.kill()
    parent.wait()
    assert worker in [process.pid for process in processes.members(out)], "the very case: it lives on"
    with pytest.raises(Reached):
        sft.run_sft(["sft/tiny_cpu"], data=data, model=student, out=out)
    assert not processes.members(out)


def test_two_never_train_in_one_folder(student, data, no_engine, tmp_path):
    with locks.hold(tmp_path / "lock", "", ""), pytest.raises(StarError, match="another process trains in"):
        sft.run_sft(["sft/tiny_cpu"], data=data, model=student, out=tmp_path)


@pytest.mark.engine
def test_a_real_run_learns_and_its_checkpoint_loads(student, data, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    seen = []
    result = sft.run_sft(
        ["sft/tiny_cpu", SHORT],
        data=data,
        model=student,
        out=tmp_path,
        env=TEST_ENV,
        progress=lambda step, total, note: seen.append((step, total, float(note.split()[-1]))),
    )
    assert result.steps == 8
    assert (result.rows, result.dropped_long, result.resumed_from) == (64, 0, 0)
    assert [s for s, _, _ in seen][-1] == 8
    assert {t for _, t, _ in seen} == {8}
    assert seen[-1][2] < seen[0][2]
    tokenizer = AutoTokenizer.from_pretrained(str(result.checkpoint))
    assert tokenizer.chat_template == (student / "chat_template.jinja").read_text()
    assert (result.checkpoint / "tokenizer.json").read_bytes() == (student / "tokenizer.json").read_bytes()
    model = AutoModelForCausalLM.from_pretrained(str(result.checkpoint))
    assert model.generation_config.eos_token_id == [2, 0]
    assert not (result.checkpoint / "optimizer.pt").exists()


@pytest.mark.engine
def test_a_failure_shows_the_end_of_the_log(student, data, tmp_path):
    with pytest.raises(StarError, match=r"(?s)exit code 1; the end of .*swift\.log.*no_such_scheduler"):
        sft.run_sft(
            ["sft/tiny_cpu", SHORT, {"lr_scheduler_type": "no_such_scheduler"}],
            data=data,
            model=student,
            out=tmp_path,
            env=TEST_ENV,
        )


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_as_the_whole_one(student, data, tmp_path):
    from safetensors.numpy import load_file

    recipe = {**SHORT, "max_steps": 300, "save_steps": 20}
    whole = sft.run_sft(["sft/tiny_cpu", recipe], data=data, model=student, out=tmp_path / "whole", env=TEST_ENV)
    script = (
        "import sys; from pathlib import Path; from star_rl.integrations.swift.sft import run_sft\n"
        f"run_sft(['sft/tiny_cpu', {recipe!r}], data=Path({str(data)!r}), model={str(student)!r},"
        f" out=Path({str(tmp_path / 'cut')!r}), env={TEST_ENV!r})"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    work = tmp_path / "cut" / "swift"
    until = time.monotonic() + 240
    while not list(work.glob("checkpoint-*/trainer_state.json")):
        assert parent.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    time.sleep(1)
    before = {p.name for p in work.glob("checkpoint-*")}
    time.sleep(5)
    assert {p.name for p in work.glob("checkpoint-*")} == before, "the child goes on after its parent was killed"
    result = sft.run_sft(["sft/tiny_cpu", recipe], data=data, model=student, out=tmp_path / "cut", env=TEST_ENV)
    assert 0 < result.resumed_from < 300
    assert result.steps == whole.steps == 300
    a, b = (load_file(r.checkpoint / "model.safetensors") for r in (whole, result))
    assert all((a[k] == b[k]).all() for k in a)
    again = sft.run_sft(["sft/tiny_cpu", recipe], data=data, model=student, out=tmp_path / "cut", env=TEST_ENV)
    assert (again.steps, again.resumed_from) == (300, 300)


@pytest.mark.slow
def test_lora_is_merged(student, data, tmp_path):
    from transformers import AutoModelForCausalLM

    recipe = {**SHORT, "optimizer": "default", "optim_args": None}
    result = sft.run_sft(["sft/tiny_cpu", "sft/lora", recipe], data=data, model=student, out=tmp_path, env=TEST_ENV)
    assert not (result.checkpoint / "adapter_config.json").exists()
    assert AutoModelForCausalLM.from_pretrained(str(result.checkpoint)).config.hidden_size == 32


@pytest.mark.slow
def test_zero2_on_two_processes(student, data, tmp_path):
    """The first run on a machine compiles DeepSpeed's CPU communication with g++ (about 2 minutes)."""
    result = sft.run_sft(
        ["sft/tiny_cpu", "sft/zero2_cpu", {**SHORT, "max_steps": 4}],
        data=data,
        model=student,
        out=tmp_path,
        env={"MASTER_PORT": "29631"},
    )
    assert result.steps == 4
    assert result.loss is not None
