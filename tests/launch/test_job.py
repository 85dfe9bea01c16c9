"""A submitted job: compiled parts of the image, and the GPUs it holds for SFT."""

import contextlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from star_rl.launch import job
from star_rl.launch.preflight import Needs
from star_rl.pipeline.stage import Stage

ROOT = Path(__file__).parents[2]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


@pytest.fixture
def tree(tmp_path):
    def make(name, code="int f;", built=""):
        for part in job.PARTS:
            file = tmp_path / name / f"{part}.c"
            file.parent.mkdir(parents=True)
            file.write_text(code)
            if built:
                file.with_name(f"{file.stem}{SUFFIX}").write_text(built)
        return tmp_path / name

    return make


def test_what_the_image_built_of_the_same_sources_is_taken(tree):
    sent = tree("sent")
    assert job.adopt(sent, iter([tree("image", built="library")])) == []
    assert all((sent / f"{part}{SUFFIX}").read_text() == "library" for part in job.PARTS)


@pytest.mark.parametrize("image", [{"code": "int g;", "built": "library"}, {}], ids=["other sources", "not built"])
def test_anything_else_is_left_out_and_named(tree, image):
    sent = tree("sent")
    assert job.adopt(sent, iter([tree("image", **image)])) == list(job.PARTS)
    assert not list(sent.rglob(f"*{SUFFIX}"))


def test_this_installation_is_found():
    assert any((folder / "star_rl").is_dir() for folder in job.installed())
    assert list(job.installed("no-such-distribution")) == []
    assert all(Path(f"{part}.c").is_file() for part in job.PARTS)


def test_a_job_holds_the_gpus_of_sft_while_it_trains(monkeypatch):
    told = []

    @contextlib.contextmanager
    def hold(count):
        told.append(count)
        yield
        told.append("free")

    monkeypatch.setattr(job.gpus, "hold", hold)
    stages = (Stage("sft", lambda _: told.append("trains") or {"steps": 1}), Stage("sample", lambda _: {}))
    sft, sample = job.guarded(stages, Needs(driver_gpus=8))
    assert sft.body(None) == {"steps": 1} and told == [8, "trains", "free"]
    assert sample.body is stages[1].body


def test_a_python_without_our_packages_is_named():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-S", "-m", "star_rl.launch.job"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert sys.executable in done.stderr and "submit --python" in done.stderr
