"""The pages say what is there: links, files, make targets, commands with their options, stages, imports."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from star_rl.evaluation.methods.registry import BASELINES, load
from star_rl.launch import cli
from star_rl.pipeline import chain

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks/README.md"]
FOLDERS = "star_rl|rewards|data_builders|recipes|launch|benchmarks|tests|docs|packaging|examples"
PATH = re.compile(rf"(?<![\w/.$])(?:{FOLDERS})/[\w./*-]+")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCED.findall(page.read_text()) if language in languages]


def inline(page: Path) -> list[str]:
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", FENCED.sub("", page.read_text()))]


def code(page: Path) -> list[str]:
    """Inline code, and every line of code blocks without its comment; a line that ends with a backslash continues."""
    lines = [line for body in blocks(page, "", "bash", "sh") for line in body.replace("\\\n", " ").splitlines()]
    return [*inline(page), *(line.split(" # ")[0].strip() for line in lines)]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def each(argument: str):
    return pytest.mark.parametrize(argument, PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@each("page")
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text())):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


@each("page")
def test_files_that_are_named_exist(page):
    named = {found.rstrip("./") for text in code(page) for found in PATH.findall(text)}
    missing = [name for name in sorted(named) if not list(ROOT.glob(name))]
    assert not missing, f"{page.name} names {missing}"


@each("page")
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [
        name for text in code(page) for name in re.findall(r"(?:^|[ =])make ([a-z][a-z0-9-]*)(?![a-z0-9<-])", text)
    ]
    assert not set(named) - targets


@cache
def help_of(command: tuple[str, ...]) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            ended = cli.main([*command, "--help"])
        except SystemExit as end:
            ended = end.code
    assert not ended, f"star-rl {' '.join(command)} is not known"
    return shown.getvalue()


def commands(page: Path) -> list[list[str]]:
    """The words behind ``star-rl`` in each line that calls it."""
    calls = [text.partition("star-rl ")[2] for text in code(page) if re.search(r"(^|/)star-rl ", text)]
    return [shlex.split(call.replace("'", "")) for call in calls]


@each("page")
def test_commands_and_their_options_are_known(page):
    for words in commands(page):
        if words[0].startswith("-"):
            assert words[0] in help_of(())
            continue
        nested = words[0] in ("evidence", "reward") and len(words) > 1
        shown = help_of(tuple(words[: 2 if nested else 1]))
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        unknown = [option for option in options if option not in shown]
        assert not unknown, f"star-rl {' '.join(words)}: {unknown}"


def test_commands_are_found():
    assert ["run", "quickstart"] in commands(ROOT / "docs/run.md")


@each("page")
def test_examples_import_what_exists(page):
    for body in blocks(page, "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and re.match(rf"({FOLDERS})\b", node.module):
                exec(compile(ast.Module([node], []), page.name, "exec"), {})


def test_stages_are_those_of_the_chain():
    names = [stage.name for stage in chain.STAGES]
    table = (ROOT / "docs/run.md").read_text().partition("## The stages")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == names
    printed = re.findall(r"^ ?\d+/15 (\w+) ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert printed == names


def test_the_tree_is_the_repository():
    """Every line of the README's tree exists, and every folder of star_rl is in it."""
    (tree,) = re.findall(r"## The tree\n+```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    parents: list[Path] = []
    listed = set()
    for line in tree.splitlines():
        name = line.split()[0]
        parents = [*parents[: (len(line) - len(line.lstrip())) // 2], Path(name)]
        path = Path(*parents)
        assert (ROOT / path).exists(), f"the tree names {path}"
        listed.add(path.as_posix())
    packages = {path.parent for path in (ROOT / "star_rl").glob("*/*.py") if not path.parent.is_symlink()}
    assert not {path.relative_to(ROOT).as_posix() for path in packages} - listed


def test_options_of_baselines_are_those_of_their_classes():
    table = (ROOT / "docs/baselines.md").read_text().partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|(.*)\|$", table, re.MULTILINE))
    assert list(rows) == list(BASELINES)
    for name, options in rows.items():
        parameters = inspect.signature(load(BASELINES[name], name)).parameters
        for option, value in re.findall(r"`(\w+)=([\d.]+)`", options):
            assert parameters[option].default == float(value), f"{name}: {option}"
