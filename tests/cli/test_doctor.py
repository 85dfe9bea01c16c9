"""The doctor: pins come from the package's own metadata, and what is wrong is said with its remedy."""

import importlib.metadata
from types import SimpleNamespace

import pytest

from star_rl.cli import doctor
from star_rl.neighbours import kernel


def test_a_version_off_its_pin_and_an_absent_one_are_wrong(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "ray":
            return "1.0.0"
        if name == "verl":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {check.name: check for check in doctor._versions("cpu")}
    assert found["ray"].state == "wrong"
    assert found["ray"].remedy.startswith("pip install ray==")
    assert found["verl"].state == "wrong"
    assert "absent" in found["verl"].value
    assert "-e '.[cpu]'" in found["verl"].remedy  # of this checkout: no index has the project
    assert found["torch"].state == "ok"


def test_a_broken_import_is_one_line_with_the_cause():
    check = doctor._import(("nothing", "import no_such_module_here"))
    assert check.state == "wrong"
    assert "no_such_module_here" in check.value
    assert doctor._import(("python", "print('fine')")).value == "fine"


@pytest.mark.parametrize(
    "states, code, last", [(["ok", "note"], 0, "ready"), (["ok", "wrong"], 1, "1 thing(s) to mend")]
)
def test_the_exit_code_says_whether_something_is_wrong(monkeypatch, capsys, states, code, last):
    lines = [doctor.Check(f"check {n}", state, "value", "do this") for n, state in enumerate(states)]
    monkeypatch.setattr(doctor, "checks", lambda extra: iter(lines))
    assert doctor.run() == code
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_a_ray_address_that_does_not_answer_is_wrong(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: type("R", (), {"returncode": 1, "stdout": ""})())
    assert doctor._ray().state == "wrong"


def test_a_gpu_machine_is_asked_a_gpu_s_questions(monkeypatch):
    monkeypatch.setattr(doctor, "_gpus", lambda: doctor.Check("GPUs", "ok", "H20, 97871 MiB; H20, 97871 MiB"))
    asked = []
    monkeypatch.setattr(doctor.gpus, "ask", lambda count, env: asked.append(count))
    monkeypatch.setattr(doctor.gpus, "problems", lambda _: ["driver 550.54 is too old: install driver >= 580"])
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 2**30))
    monkeypatch.setenv("CUDA_HOME", "/none")
    found = {check.name: check for check in doctor._machine("gpu")}
    assert asked == [2]
    assert found["GPU probe"] == doctor.Check("GPU probe", "wrong", "driver 550.54 is too old", "install driver >= 580")
    assert found["nvcc"].state == "note" and "zero3_offload" in found["nvcc"].value
    assert found["disk"].state == "note" and "free 500 GiB" in found["disk"].remedy
    assert "shared memory" not in found  # among the probe's
    monkeypatch.setattr(doctor, "_import", lambda item: doctor.Check(f"import {item[0]}", "ok", ""))
    assert "import plug-in" not in {check.name for check in doctor.checks("gpu")}
    absent = {check.name: check for check in doctor._versions("gpu")}["flash-attn"]
    assert absent.state == "wrong" and absent.remedy == "make install EXTRA=gpu"


def test_a_kernel_that_was_not_built_is_wrong(monkeypatch, tmp_path):
    assert doctor._kernel().state == "ok"
    monkeypatch.setattr(kernel, "__file__", str(tmp_path / "kernel.py"))
    monkeypatch.setattr(kernel, "library", kernel.library.__wrapped__)
    check = doctor._kernel()
    assert check.state == "wrong" and "make install" in check.remedy
