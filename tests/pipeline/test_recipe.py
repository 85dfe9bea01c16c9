"""Recipes: overrides, unknown keys, wrong types and values out of range are each one clear line."""

import pytest

from star_rl.errors import StarError
from star_rl.options import keys
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
        ("sampel.n=4", "sampel is not known - did you mean sample"),
        ("sample.temprature=1", "sample.temperature"),
        ("sample.n=many", "sample.n"),
        ("sample.n=3", "sample.n=3 is not valid - it should be at least 4"),
        ("sample.temperature=-1", "at least 0"),
        ("evidence.size=huge", "evidence.size='huge' is not valid - it should be 'full' or 'short'"),
        ("grpo_set.total=0", "grpo_set.total=0 is not valid - it should be 'max' or at least 1"),
        ("name=a/b", "name=a/b is not a folder name - set out= to the folder"),
        ("name=..", "is not a folder name"),
        ("seed=-1", "seed=-1 is not valid"),
        ("teacher.tasks=0", "teacher.tasks=0 is not valid"),
        ("sft_set.limit=-1", "sft_set.limit=-1 is not valid"),
        ("novalue", "not an override"),
        ("seed=true", "seed=True is not valid - it should be a valid integer"),
        ("sample=3", "sample=3 is not a section - write keys with values below it"),
        ("sample.n=[4", "the value of sample.n=.* is not YAML"),
        ("sample.n=${nope}", "a reference cannot be resolved .*nope"),
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
    with pytest.raises(StarError, match="is not a mapping"):
        recipe.load(tmp_path / "list.yaml")


def test_every_key_is_listed_for_suggestions():
    assert {"seed", "sample.n", "grpo.reward", "source.options"} <= set(keys(recipe.Recipe))


def test_a_name_may_look_like_a_number_and_a_reference_is_resolved(path):
    loaded = recipe.load(path, ["name=2024", "sample.n=${seed}"])
    assert (loaded.name, loaded.sample.n) == ("2024", 7)
