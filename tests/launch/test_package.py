"""The package: what travels, what never does, one digest for one tree, and a limit that names the culprits."""

import zipfile

import pytest

from launch import package
from star_rl.errors import StarError


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "project"
    for name in (
        "setup.py", "star_rl/cli.py", "star_rl/page.html", "recipes/a.yaml", "mine/reward.py",
        ".venv/lib/big.py", ".git/config", ".env", "runs/a/grpo/model.bin", "star_rl/__pycache__/cli.pyc", "wandb/x",
        "star_rl/neighbours/_kernel.cpython-311-x86_64-linux-gnu.so",
        "tests/test_a.py", "docs/a.md", "data/set.parquet", "mine/tests/kept.py", "star_rl.egg-info/PKG",
    ):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def test_code_and_recipes_travel_and_nothing_else(tree):
    assert list(package.collect(tree).files) == [
        "mine/reward.py", "mine/tests/kept.py", "recipes/a.yaml", "setup.py", "star_rl/cli.py", "star_rl/page.html",
    ]  # fmt: skip


def test_an_equal_tree_is_an_equal_zip_and_a_changed_one_is_not(tree, tmp_path):
    first = package.collect(tree)
    package.write(first, tmp_path / "a.zip")
    (tree / "recipes/a.yaml").touch()
    package.write(package.collect(tree), tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    (tree / "recipes/a.yaml").write_text("other")
    assert package.collect(tree).digest != first.digest


def test_a_package_over_the_limit_is_refused_and_its_largest_files_named(tree, tmp_path):
    import os

    (tree / "mine/weights.dat").write_bytes(os.urandom(200_000))
    with pytest.raises(StarError, match=r"the package is 0.2 MB, more than 0.1; .*mine/weights.dat \(0.2 MB\)"):
        package.write(package.collect(tree), tmp_path / "a.zip", limit=100_000)
    assert not (tmp_path / "a.zip").exists()


def test_files_of_the_job_lie_beside_the_code(tree, tmp_path):
    package.write(package.collect(tree), tmp_path / "a.zip", {".star_rl_job.json": b"{}"})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read(".star_rl_job.json") == b"{}"
        assert archive.testzip() is None


def test_this_project_is_less_than_a_megabyte(tmp_path):
    tree = package.collect(package.project_root())
    assert package.write(tree, tmp_path / "a.zip") < 1 << 20
    assert {"setup.py", "launch/job.py", "recipes/grpo/table5.yaml", "rewards/star.py"} <= set(tree.files)


def test_an_empty_or_missing_tree_is_an_error(tmp_path):
    with pytest.raises(StarError, match="there is no folder"):
        package.collect(tmp_path / "none")
    with pytest.raises(StarError, match="nothing of"):
        package.collect(tmp_path)
