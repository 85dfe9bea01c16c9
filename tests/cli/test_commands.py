"""The sub-commands: each has help with examples, each failure is one line and exit code 2."""

import json

import pytest

from star_rl.launch import cli

NAMES = (
    "run", "doctor", "plan", "tables", "evidence verify", "evidence inspect", "evidence build", "teach", "view",
    "sample", "evaluate", "compare", "official", "best-of-k", "corpus", "latency", "ablate", "curves", "reward check",
    "export", "submit", "status", "stop", "resume",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_sub_command_has_help(name, capsys):
    assert cli.main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: star-rl {name} ")
    assert name == "doctor" or f"examples:\n  star-rl {name}" in shown or "  star-rl evaluate" in shown


def test_tables_of_a_source_are_written_and_counted(tmp_path, capsys):
    arguments = ["tables", "synthetic", "--out", str(tmp_path), "--set", "users=60", "items=60"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "60 kept" in out and "fingerprint" in out
    assert (tmp_path / "interactions.parquet").is_file()


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["tables", "nope", "--out", "x"], "there is no source 'nope'"),
        (["tables", "movielens", "--out", "x"], "needs root"),
        (
            ["tables", "synthetic", "--out", "x", "--set", "users"],
            "'users' is not an override - write section",
        ),
        (["evidence", "verify", "no/store"], "no/store"),
        (["reward", "check", "nothing"], "reward=nothing is unknown"),
        (["curves", "no/run", "--out", "x.png"], "no/run"),
        (["export", "no/run", "--out", "x"], "no run folder no/run"),
        (["sample", "no/run"], "no/run is not a run folder"),
        (["official", "no/run", "random"], "no/run is not a run folder"),
        (["plan", "no/recipe.yaml"], "there is no recipe"),
        (["view", "no/runs"], "no/runs"),
        (["submit", "recipes/quickstart.yaml", "--env", "STAR_RL_NONE"], "the variable is not set here"),
        (["submit", "recipes/quickstart.yaml", "bad"], "not an override"),
        (["status"], "no cluster is named"),
        (["stop", "x", "--address", "127.0.0.1:9"], "nothing answers at 127.0.0.1:9"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(arguments, says, capsys, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err.rstrip().splitlines()[-1]  # what was under way may have had a line of its own
    assert error.startswith("star-rl: ") and says in error


def test_a_reward_is_checked_with_its_options(tmp_path, capsys):
    assert cli.main(["reward", "check", "star"]) == 0
    assert "keys (acc" in capsys.readouterr().out
    file = tmp_path / "mine.py"
    file.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info, weight):\n"
        "    hit = float(ground_truth in solution_str)\n    return {'score': weight * hit, 'acc': hit}\n"
    )
    assert cli.main(["reward", "check", str(file), "--set", "weight=2.5"]) == 0
    assert cli.main(["reward", "check", str(file)]) == 2
    assert "cannot be called" in capsys.readouterr().err


def test_a_run_folder_s_stages_are_told(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("name: demo\n")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/manifest.json").write_text(json.dumps({"seconds": 1.5, "figures": {"summary": "60 users"}}))
    (tmp_path / "tasks").mkdir()
    assert cli.main(["status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tables", "done", "1.5", "s", "60", "users"]
    assert lines[1].split() == ["tasks", "begun"] and lines[2].split() == ["neighbours", "-"]


@pytest.mark.parametrize("name", ["", *NAMES])
def test_no_engine_is_loaded_to_read_the_command_line(name):
    import subprocess
    import sys

    code = (
        "import sys\nfrom star_rl.launch import cli\nassert cli.main(sys.argv[1:]) == 0\n"
        "heavy = {'torch', 'ray', 'numpy', 'pyarrow', 'omegaconf', 'pydantic', 'rich', 'httpx'} & {*sys.modules}\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code, *name.split(), "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
