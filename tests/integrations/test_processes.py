"""A run's processes: all are found and ended, those in sessions of their own too."""

import stat
import subprocess
import sys

import psutil
import pytest

from star_rl.integrations import processes

LAUNCHER = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(worker.pid, flush=True)
time.sleep(600)
"""


def last_line(log):
    while not (log.is_file() and log.read_text().endswith("\n")):
        pass
    return log.read_text().splitlines()[-1]


def test_workers_in_sessions_of_their_own_end_with_the_block(tmp_path):
    log = tmp_path / "run.log"
    with processes.running([sys.executable, "-c", LAUNCHER], {}, tmp_path, log) as child:
        assert {int(last_line(log)), child.pid} == {process.pid for process in processes.members(tmp_path)}
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert not processes.members(tmp_path)
    assert child.returncode is not None


def test_the_exit_code_is_kept(tmp_path):
    command = [sys.executable, "-c", "import os, sys; print(os.environ['A']); sys.exit(7)"]
    with processes.running(command, {"A": "1"}, tmp_path, tmp_path / "log") as child:
        assert child.wait() == 7
    assert child.returncode == 7 and (tmp_path / "log").read_text() == "1\n"


@pytest.mark.parametrize("dies", [True, False])
def test_a_process_dies_with_a_killed_parent_if_it_is_told_to(tmp_path, dies):
    run = f"Path({str(tmp_path)!r})"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from pathlib import Path; from star_rl.integrations import processes\n"
            f"processes.start(['sleep', '600'], {{}}, {run}, {run} / 'log', dies_with_us={dies})\n"
            "print('started', flush=True)\n"
            "time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout.readline() == b"started\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    if dies:
        psutil.wait_procs([child], timeout=60)
    assert processes.end(tmp_path) == (0 if dies else 1)


def test_the_end_of_a_log_names_the_first_exception_and_shows_no_secret_or_progress_bar(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    log = tmp_path / "train.log"
    log.write_text(
        "old\nValueError: bad key\n 5 of 9, 3it/s]\r 6 of 9, 3it/s]\n" + "more\n" * 30 + "key hf_0123456789\n"
    )
    assert processes.tail(log) == "\n".join(["ValueError: bad key", "..", *["more"] * 24, "key ***"])
    assert processes.tail(log, log.stat().st_size - 9) == "23456789"
