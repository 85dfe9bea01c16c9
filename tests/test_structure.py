"""The structure of the code: which package may import which, no circles, one name for one class."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("star_rl", "launch", "rewards", "data_builders")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imported(name, nodes):
    """Modules of ours that import statements name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relative to itself"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & set(TREES) or {node.module}  # a module of a package, or names of a module
    return {module for module in found if module in TREES} - {name}


def at_load(name):
    """Modules of ours that are imported when a module is loaded."""
    waiting, nodes = [TREES[name]], []
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            nodes.append(node)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                waiting.append(node)
    return imported(name, nodes)


#: Modules of star_rl that load a reward: the trainings, the checks before them, and the command that tries one.
REWARDS = (
    "star_rl",  # a public name, loaded when it is asked for
    "star_rl.cli.results",
    "star_rl.evaluation.stages",
    "star_rl.integrations.verl.grpo",
    "star_rl.integrations.verl.recipe",
    "star_rl.pipeline.check",
    "star_rl.pipeline.overlays",
    "star_rl.policy.agent_loop",
)
EVERYWHERE = {name: imported(name, ast.walk(tree)) for name, tree in TREES.items()}


@pytest.mark.parametrize(
    "below, above, known",
    [
        ("star_rl", "launch", ()),
        ("star_rl", "data_builders", ()),
        ("rewards", "launch", ()),
        ("rewards", "data_builders", ()),
        ("data_builders", "launch", ()),
        ("star_rl", "rewards", REWARDS),
    ],
)
def test_arrows_run_downward(below, above, known):
    names = {
        name
        for name, modules in EVERYWHERE.items()
        if name.split(".")[0] == below and any(module.split(".")[0] == above for module in modules)
    }
    assert names <= set(known)


def test_star_rl_does_not_name_the_cluster():
    named = re.compile(r"\blaunch\.\w")
    assert [name for name, path in FILES.items() if name.startswith("star_rl") and named.search(path.read_text())] == []


def test_no_modules_import_one_another_in_a_circle():
    waiting = {name: at_load(name) for name in TREES}
    while free := [name for name, modules in waiting.items() if not modules & set(waiting)]:
        for name in free:
            del waiting[name]
    assert waiting == {}


def test_a_class_name_stands_for_one_thing():
    names = Counter(node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert {name for name, count in names.items() if count > 1} == set()
