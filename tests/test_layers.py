"""Layers of a configuration: bases, overrides and references."""

import pytest

from star_rl.errors import StarError
from star_rl.layers import RECIPES, layers, merge, overrides, recipe_path, resolve


def test_the_lowest_base_comes_first(tmp_path):
    (tmp_path / "low.yaml").write_text("a: 1\nb: {c: 1e-5}\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mid.yaml").write_text("base: ../low.yaml\nb: {d: 2}\n")
    (tmp_path / "folder/top.yaml").write_text("base: mid.yaml\na: null\n")
    found = layers(tmp_path / "folder/top.yaml")
    assert found == [{"a": 1, "b": {"c": 1e-5}}, {"b": {"d": 2}}, {"a": None}]
    assert merge(*found) == {"a": None, "b": {"c": 1e-5, "d": 2}}


@pytest.mark.parametrize(
    "text, says",
    [
        ("a: [1,", "is not valid YAML"),
        ("- 1", "is not a mapping"),
        ("words", "is not a mapping"),
        ("base: none.yaml", "names the base none.yaml, which does not exist"),
        ("base: r.yaml", "r.yaml is its own base"),
    ],
)
def test_a_file_that_is_not_a_layer_is_named(tmp_path, text, says):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(StarError, match=says):
        layers(tmp_path / "r.yaml")


def test_an_empty_file_changes_nothing(tmp_path):
    (tmp_path / "r.yaml").write_text("# nothing\n")
    assert layers(tmp_path / "r.yaml") == [{}]


def test_overrides_nest_and_are_yaml():
    assert overrides(["a.b=1", "a.c=[x, y]", "d=true", "e="]) == {"a": {"b": 1, "c": ["x", "y"]}, "d": True, "e": None}
    for pair, says in (("=1", "not an override"), ("users", "not an override"), ("a={b", "value of a=.b is not YAML")):
        with pytest.raises(StarError, match=says):
            overrides([pair])


def test_references_are_resolved_over_all_layers():
    assert resolve(merge({"a": "${b}"}, {"b": 2})) == {"a": 2, "b": 2}
    with pytest.raises(StarError, match=r"a reference cannot be resolved .*nope"):
        resolve({"a": "${nope}"})


def test_a_recipe_is_found_by_its_name_in_any_folder_and_a_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_path("grpo/table5") == RECIPES / "grpo/table5.yaml"
    assert layers("sft/lora") == layers(RECIPES / "sft/lora.yaml")
    (tmp_path / "mine.yaml").write_text("base: amazon\nname: mine\n")
    assert layers("mine.yaml") == [*layers("amazon"), {"name": "mine"}]
    (tmp_path / "amazon").write_text("name: another\n")
    assert layers("amazon") == [{"name": "another"}] == layers("mine.yaml")[:1]


@pytest.mark.parametrize(
    "name, near",
    [
        ("table4", "grpo/table5, sft/table4"),
        ("recipes/sft/lra.yaml", "grpo/lora, sft/lora"),
        ("quikstart", "quickstart"),
        ("sft/mine", ", ".join(f"sft/{file.stem}" for file in sorted((RECIPES / "sft").glob("*.yaml")))),
    ],
)
def test_a_recipe_that_is_missing_is_answered_with_the_nearest(name, near):
    with pytest.raises(StarError, match=f"^there is no recipe {name} - give a file, or one of {near}$"):
        recipe_path(name)
