"""CONTRIBUTING, the changelog and the hooks name what exists."""

import re
from pathlib import Path

import yaml

import star_rl

#: Stand for a file or a value of the reader's own.
OWN = {"NAME", "my_source.py", "my_reward.py", "my_method.py"}


def test_contributing_names_files_that_exist():
    text = Path("CONTRIBUTING.md").read_text()
    named = {word for word in re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.py)`", text) if not any(o in word for o in OWN)}
    assert len(named) > 20
    assert [name for name in sorted(named) if not Path(name).exists()] == []


def test_contributing_names_what_its_files_hold():
    text = Path("CONTRIBUTING.md").read_text()
    for name, file in re.findall(r"`([A-Z_]{4,})`[^`]{1,12}`([\w./]+\.py)`", text):
        assert re.search(rf"^{name}\b", Path(file).read_text(), re.MULTILINE), f"{file} has no {name}"


def test_every_way_to_add_something_is_short():
    sections = Path("CONTRIBUTING.md").read_text().split("\n## Add ")[1:]
    assert len(sections) == 5
    assert all(len([line for line in section.splitlines()[1:] if line]) < 10 for section in sections)


def test_the_changelog_has_this_version():
    assert f"## [{star_rl.__version__}]" in Path("CHANGELOG.md").read_text()
    assert f'version="{star_rl.__version__}"' in Path("setup.py").read_text()


def test_hooks_and_hosted_ci_call_what_is_here():
    hooks = yaml.safe_load(Path(".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[0] for hook in hooks] == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]
    steps = yaml.safe_load(Path(".github/workflows/ci.yml").read_text())["jobs"]["check"]["steps"]
    assert steps[-1]["run"] == ".ci/run" and Path(".ci/run").is_file()


def test_every_page_of_the_docs_is_in_the_navigation():
    named = re.findall(r"([\w-]+)\.md$", Path("mkdocs.yml").read_text(), re.MULTILINE)
    assert {path.stem for path in Path("docs").glob("*.md")} <= set(named)
