"""Recipes: overrides, unknown keys, wrong types and values out of range are each one clear line."""

import pytest

from star_rl.errors import StarError
from star_rl.pipeline import recipe


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("name: demo\nsource: {name: synthetic, options: {users: 10}}\nsample: {n: 4}\n")
    return file


def test_the_file_lies_over_the_defaults_and_overrides_over_both(path):
    loaded = recipe.load(path, ["sample.temperature=1.0", "seed=3"])
    assert (loaded.name, loaded.sample.n, loaded.sample.temperature, loaded.seed) == ("demo", 4, 1.0, 3)
    assert loaded.source.options == {"users": 10}


def test_a_named_section_takes_its_name_directly(path):
    loaded = recipe.load(path, ["source=movielens", "source.root=/data/ml"])
    assert (loaded.source.name, loaded.source.root) == ("movielens", "/data/ml")


def test_a_base_recipe_is_read_first(path, tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text("base: r.yaml\nsample: {temperature: 0.5}\n")
    loaded = recipe.load(child)
    assert (loaded.sample.n, loaded.sample.temperature) == (4, 0.5)


@pytest.mark.parametrize(
    "override, says",
    [
        ("sampel.n=4", "sampel"),
        ("sample.temprature=1", "sample.temperature"),
        ("sample.n=many", "sample.n"),
        ("sample.n=3", "sample.n=3 is out of range - it lies between 4 and 128"),
        ("sample.temperature=-1", "out of range"),
        ("evidence.size=huge", "one of full, short"),
        ("grpo_set.total=0", "not a size"),
        ("name=a/b", "name=a/b is no folder's name - set out= to the folder"),
        ("name=..", "is no folder's name"),
        ("seed=-1", "seed=-1 is out of range"),
        ("teacher.tasks=0", "teacher.tasks=0 is out of range"),
        ("sft_set.limit=-1", "sft_set.limit=-1 is out of range"),
        ("novalue", "not an override"),
    ],
)
def test_a_bad_option_names_itself_and_the_remedy(path, override, says):
    with pytest.raises(StarError, match=says):
        recipe.load(path, [override])


def test_a_missing_recipe_and_broken_yaml_are_told_apart(tmp_path):
    with pytest.raises(StarError, match="there is no recipe"):
        recipe.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,")
    with pytest.raises(StarError, match="not valid YAML"):
        recipe.load(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(StarError, match="not sections"):
        recipe.load(tmp_path / "list.yaml")


def test_every_key_is_listed_for_suggestions():
    assert {"seed", "sample.n", "grpo.reward", "source.options"} <= set(recipe.keys())
