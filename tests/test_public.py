"""The public API: what ``star_rl`` promises."""

import subprocess
import sys
from pathlib import Path

import pytest

import star_rl

ENGINES = ("torch", "ray", "verl", "vllm", "swift", "transformers")


@pytest.mark.parametrize("name", star_rl.__all__)
def test_every_public_name_exists_is_documented_and_listed(name):
    found = getattr(star_rl, name)
    assert found.__doc__ and name in dir(star_rl)
    assert f"`{name}`" in star_rl.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        star_rl.nothing  # noqa: B018


def test_the_docstring_names_nothing_else():
    named = star_rl.__doc__.split(":`")[1:]
    assert sorted(part.partition("`")[0] for part in named) == sorted(star_rl.__all__)


def test_no_public_name_loads_an_engine():
    code = f"import sys; from star_rl import *; print([name for name in {ENGINES!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_type_hints_are_shipped():
    assert (Path(star_rl.__file__).parent / "py.typed").is_file()
