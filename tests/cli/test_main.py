"""The command line: quick to start, exit codes as documented."""

import subprocess
import sys

import pytest

from star_rl import cli

HEAVY = ("torch", "ray", "verl", "vllm", "swift", "transformers", "datasets", "pandas")


@pytest.mark.parametrize(
    "module",
    ["star_rl", "star_rl.cli", "star_rl.pipeline.recipe", "star_rl.pipeline.chain", "data_builders", "rewards.star"],
)
def test_no_engine_is_loaded_behind_the_light_parts(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    assert "star-rl run quickstart" in capsys.readouterr().out


def test_what_the_user_can_mend_is_one_line_and_exit_code_2(capsys):
    assert cli.main(["run", "no/such.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("star-rl: there is no recipe no/such.yaml")
    assert error.count("\n") == 1


def test_options_may_stand_before_and_after_the_values(capsys):
    for words in (["--until", "sft", "seed=9", "name=b"], ["seed=9", "--until", "sft", "name=b"]):
        given = ["run", "recipes/quickstart.yaml", *words]
        arguments = cli._parsed(cli.parser(given), given)
        assert (arguments.overrides, arguments.until) == (["seed=9", "name=b"], "sft")
    for words in (["--until", "sft", "--frm=x"], ["--until", "sft", "seed"]):
        with pytest.raises(SystemExit):
            cli.main(["run", "recipes/quickstart.yaml", *words])
        assert "unrecognized arguments" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["doctor", "a=b"])
