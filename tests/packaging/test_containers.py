"""The Dockerfiles without a builder: what they copy, rest on and start exists."""

import json
import re
from pathlib import Path

import pytest

FILES = sorted(Path("packaging").glob("Dockerfile.*"))
SETUP = Path("setup.py").read_text()


def steps(file):
    """Its instructions as ``(word, rest)``."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line]


def arguments(file, word):
    return [rest for name, rest in steps(file) if name == word]


def test_there_is_one_for_each_extra():
    assert [file.suffix for file in FILES] == [".cpu", ".gpu"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.suffix)
def test_a_container_rests_on_what_exists(file):
    (base,) = arguments(file, "FROM")
    assert re.fullmatch(r"[a-z/]+:\d+\.\d+[\w.-]*", base), "a base image of a version"
    ignored = Path(".dockerignore").read_text().split()
    for rest in arguments(file, "COPY"):
        for source in rest.split()[:-1]:
            assert Path(source).exists() and source.split("/")[0] not in ignored, source
    (python,) = {
        re.sub(r"\D", "", found) for found in re.findall(r"python3\.\d+|python:3\.\d+", " ".join(map(str, steps(file))))
    }
    low, high = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', SETUP).groups()
    assert int(low) <= int(python[1:]) < int(high)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.suffix)
def test_a_container_starts_a_command_of_ours(file):
    name, rest = steps(file)[-1]
    command, argument, *_ = json.loads(rest)
    assert name == "CMD"
    if command == "make":
        assert re.search(rf"^{argument}:.*##", Path("Makefile").read_text(), flags=re.MULTILINE)
    else:
        assert f'"{command} = ' in SETUP


def test_the_images_install_as_everybody_does():
    """By packaging/install, before the tree is there: an edit of the project leaves the engines' layer as it is."""
    for file in FILES:
        order = [rest for name, rest in steps(file) if name in ("RUN", "COPY")]
        installs = next(i for i, rest in enumerate(order) if "packaging/install" in rest or "make install" in rest)
        assert installs < order.index(". .") == len(order) - 2
        sources = " ".join(order[:installs])
        assert all(source in sources for source in re.findall(r'\["(star_rl/.*?\.c)"\]', SETUP))
