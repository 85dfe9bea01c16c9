"""The command line: quick to start, exit codes as documented."""

import subprocess
import sys

import click
import pytest

import star_rl.launch.cli
from star_rl import cli
from star_rl.cli import doctor
from star_rl.cli.base import Several, command

HEAVY = ("torch", "ray", "verl", "vllm", "swift", "transformers", "datasets", "pandas")


@pytest.mark.parametrize(
    "module",
    [
        "star_rl",
        "star_rl.cli",
        "star_rl.pipeline.recipe",
        "star_rl.pipeline.chain",
        "star_rl.data_builders",
        "star_rl.rewards.star",
    ],
)
def test_no_engine_is_loaded_behind_the_light_parts(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_shows_examples(capsys):
    assert cli.main(["--help"]) == 0
    assert "star-rl run quickstart" in capsys.readouterr().out


def test_what_the_user_can_mend_is_one_line_and_exit_code_2(capsys):
    assert cli.main(["run", "no/such.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("star-rl: there is no recipe no/such.yaml")
    assert error.count("\n") == 1


def test_options_may_stand_before_and_after_the_values(capsys):
    shown = []
    for words in (["--options", "seed=9", "name=b"], ["seed=9", "--options", "name=b"]):
        assert cli.main(["run", "recipes/quickstart.yaml", *words]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and "seed: 9\n" in shown[0] and "name: b\n" in shown[0]


@pytest.mark.parametrize("words", [["--out", "there"], ["out=there"], ["out=here", "--out=there"]])
def test_the_folder_of_runs_is_an_option_too(words, capsys):
    assert cli.main(["run", "quickstart", *words, "--options"]) == 0
    assert "\nout: there\n" in capsys.readouterr().out


def test_an_option_takes_several_values_up_to_the_next_option():
    seen = []

    @command("demo", "")
    @click.argument("words", nargs=-1)
    @click.option("--set", "pairs", cls=Several, default=["x=0"])
    @click.option("--out")
    def demo(**values):
        seen.append(values)

    for words in (["a", "--set", "b=1", "c=-2", "--out", "o"], ["a", "--set", "b=1", "--out", "o", "--set", "c=-2"]):
        demo.main(words, standalone_mode=False)
        assert seen.pop() == {"words": ("a",), "pairs": ("b=1", "c=-2"), "out": "o"}
    demo.main([], standalone_mode=False)
    assert seen.pop() == {"words": (), "pairs": ("x=0",), "out": None}


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "Missing command - see star-rl --help"),
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing argument 'RECIPE' - see star-rl run --help"),
        (["run", "recipes/quickstart.yaml", "--until", "sft", "--frm=x"], "No such option"),
        (["run", "recipes/quickstart.yaml", "--until", "sft", "seed"], "'seed' is not an override"),
        (["doctor", "a=b"], "Got unexpected extra argument (a=b) - see star-rl doctor --help"),
        (["doctor", "--extra", "tpu"], "'tpu' is not one of 'cpu', 'gpu'"),
        (
            ["run", "quickstart", "--untl", "sft"],
            "No such option '--untl'. Did you mean '--until'? - see star-rl run --help",
        ),
        (["run", "quickstart", "-until", "sft"], "No such option '-until'. Did you mean '--until'?"),
        (["run", "quickstart", "--until"], "Option '--until' requires an argument - see star-rl run --help"),
        (["run", "quickstart", "--grpo.steps=3"], "No such option '--grpo.steps', write grpo.steps=VALUE"),
        (["run", "quickstart", "--seed", "3"], "No such option '--seed', write seed=VALUE"),
        (["run", "quickstart", "--zzz"], "No such option '--zzz' - see star-rl run --help"),
        (["evaluate", "random", "--seeds", "3"], "No such option '--seeds'. Did you mean '--seed'?"),
        (
            ["corpus", "random", "--retrieve", "a", "b", "--dept", "3"],
            "No such option '--dept'. Did you mean '--depth'?",
        ),
        (["evidence", "biuld"], "No such command 'biuld'. Did you mean 'build'? - see star-rl evidence --help"),
        (["evaluat"], "No such command 'evaluat'. Did you mean 'evaluate'? - see star-rl --help"),
        (["evidence"], "Missing command - see star-rl evidence --help"),
        (["best-of-k", "x", "--seed", "one"], "'one' is not a valid integer"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(words, says, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("star-rl: ") and says in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "error, code, says", [(KeyboardInterrupt, 130, "goes on from here"), (BrokenPipeError, 141, "")]
)
def test_interrupts_and_closed_pipes_have_codes_of_their_own(error, code, says, capsys, monkeypatch):
    def ends(*_):
        raise error

    monkeypatch.setattr(doctor, "run", ends)
    assert cli.main(["doctor"]) == code
    assert says in capsys.readouterr().err


def test_the_clusters_commands_are_those_of_the_installed_command_alone(capsys):
    assert cli.main(["submit", "x"]) == 2
    assert star_rl.launch.cli.main(["status", "--help"]) == 0
    assert "a run's name, a job's id, or a run folder" in capsys.readouterr().out
