"""Compiled parts: the image's own where its sources are the same, else none."""

import sysconfig
from pathlib import Path

import pytest

from star_rl.launch import compiled

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


@pytest.fixture
def tree(tmp_path):
    def make(name, code="int f;", built=""):
        for part in compiled.PARTS:
            file = tmp_path / name / f"{part}.c"
            file.parent.mkdir(parents=True)
            file.write_text(code)
            if built:
                file.with_name(f"{file.stem}{SUFFIX}").write_text(built)
        return tmp_path / name

    return make


def test_what_the_image_built_of_the_same_sources_is_taken(tree):
    sent = tree("sent")
    assert compiled.adopt(sent, iter([tree("image", built="library")])) == []
    assert all((sent / f"{part}{SUFFIX}").read_text() == "library" for part in compiled.PARTS)


@pytest.mark.parametrize("image", [{"code": "int g;", "built": "library"}, {}], ids=["other sources", "not built"])
def test_anything_else_is_left_out_and_named(tree, image):
    sent = tree("sent")
    assert compiled.adopt(sent, iter([tree("image", **image)])) == list(compiled.PARTS)
    assert not list(sent.rglob(f"*{SUFFIX}"))


def test_this_installation_is_found():
    assert any((folder / "star_rl").is_dir() for folder in compiled.installed())
    assert list(compiled.installed("no-such-distribution")) == []
    assert all(Path(f"{part}.c").is_file() for part in compiled.PARTS)
