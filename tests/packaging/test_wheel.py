"""The wheel in an environment of its own, away from the checkout: commands, recipes, and what a cluster is sent."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine  # plan composes verl's configuration
PARTS = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
PACKAGES = ("star_rl", "launch", "rewards", "data_builders", "recipes")


def call(*command, cwd=None):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy: no files of an earlier build go in, and no build folder is left in the checkout."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        shutil.copy(name, tree)
    for name in PACKAGES:
        shutil.copytree(name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    call(*pip, "-w", out, tree)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """``bin`` of an environment with the wheel, which sees the libraries of this one but not its editable project."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    call(*pip)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    where = call(python, "-c", "import star_rl; print(star_rl.__file__)", cwd=folder).stdout
    assert Path(where.strip()).is_relative_to(packages)
    return folder / "bin"


def test_the_wheel_holds_every_recipe_and_manifest(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    shipped = [file for folder in ("recipes", "launch/manifests") for file in Path(folder).rglob("*") if file.is_file()]
    assert len(shipped) > 25
    for file in shipped:
        assert f"star_rl/{file.as_posix()}" in names, file


def test_the_commands_run_outside_a_checkout(installed, tmp_path):
    star = installed / "star-rl"
    assert "star-rl run quickstart" in call(star, "--help", cwd=tmp_path).stdout
    plan = call(star, "plan", "amazon", cwd=tmp_path).stdout.lower()
    assert "sft" in plan and "grpo" in plan
    assert "name: quickstart" in call(star, "run", "quickstart", "--options", cwd=tmp_path).stdout
    assert "grpo_set" in call(star, "run", "quickstart", "--stages", cwd=tmp_path).stdout
    call(star, "tables", "synthetic", "--out", "tables", "--set", "users=100", "items=80", cwd=tmp_path)
    assert (tmp_path / "tables/items.parquet").is_file()


def test_a_recipe_by_name_runs_a_stage(installed, tmp_path):
    users = "source.options={users: 100, items: 80}"
    call(installed / "star-rl", "run", "quickstart", users, "--until", "tables", cwd=tmp_path)
    assert (tmp_path / "runs/quickstart/tables/manifest.json").is_file()


SENT = """
import sys
from pathlib import Path
from star_rl.launch import submit
from star_rl.pins import pins_of
from ray._private.runtime_env.packaging import create_package
root = submit.project_root()
create_package(str(root), Path(sys.argv[1]), include_gitignore=True, excludes=submit.INSTALLED)
print(pins_of(root / "setup.py", "gpu")["verl"])
"""


def test_ray_sends_the_installed_packages_and_nothing_beside_them(installed, tmp_path):
    printed = call(installed / "python", "-c", SENT, tmp_path / "package.zip", cwd=tmp_path).stdout.splitlines()
    assert printed[-1:] == ["0.9.1"]
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {"star_rl"}
    assert {"star_rl/launch/job.py", "star_rl/recipes/grpo/table5.yaml", "star_rl/neighbours/_kernel.c"} <= set(names)
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
