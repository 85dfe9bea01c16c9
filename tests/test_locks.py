"""Locks: busy means that another process is there, and a file system without flock locks all the same."""

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from star_rl import locks
from star_rl.errors import StarError

HOLD = "import sys; from pathlib import Path; from star_rl import locks; locks.hold(Path(sys.argv[1]), 'busy', 'wait')"


def hold(path):
    return locks.hold(path, "another process works here", "wait for it")


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def without_flock(request, monkeypatch):
    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


def test_a_second_holder_is_refused_until_the_first_is_done(tmp_path):
    file = tmp_path / "lock"
    file.write_text("kept")
    with hold(file), pytest.raises(StarError, match="another process works here"):
        hold(file)
    hold(file).close()
    assert file.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_lock_goes_with_its_process(tmp_path):
    subprocess.run([sys.executable, "-c", HOLD, str(tmp_path / "lock")], check=True)
    hold(tmp_path / "lock").close()


def test_another_failure_is_not_taken_for_a_second_process(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(StarError, match=r"cannot lock .*Input/output error"):
        hold(tmp_path / "lock")
    with pytest.raises(StarError, match="cannot write"):
        hold(tmp_path / "lock" / "below a file")


def test_without_flock_a_mark_stands_for_it(tmp_path, without_flock, capsys):
    file, mark = tmp_path / "lock", tmp_path / "lock.held"
    with hold(file):
        assert capsys.readouterr().err.count("\n") == 1
        assert json.loads(mark.read_text())["pid"] == os.getpid()
        with pytest.raises(StarError, match=rf"another process works here.*{mark}.*process {os.getpid()} on"):
            hold(file)
        assert mark.exists()
    assert not mark.exists()


@pytest.mark.parametrize("since", ["", "12"])
def test_a_mark_that_a_killed_process_left_is_taken_away(tmp_path, without_flock, since):
    gone = subprocess.Popen(["true"])
    gone.wait()
    pid = os.getpid() if since else gone.pid  # the number of a process that lives may be another's by now
    left = {"host": socket.gethostname(), "pid": pid, "since": since or "99"}
    (tmp_path / "lock.held").write_text(json.dumps(left))
    with hold(tmp_path / "lock"):
        assert json.loads((tmp_path / "lock.held").read_text())["since"] == locks._since(os.getpid())


@pytest.mark.parametrize("content", [json.dumps({"host": "far", "pid": 1, "since": "1"}), "", "[]", "null"])
def test_the_mark_of_another_machine_and_one_that_cannot_be_read_stand(tmp_path, without_flock, content):
    (tmp_path / "lock.held").write_text(content)
    with pytest.raises(StarError, match=r"delete it if (process 1 on far|whoever wrote it) is gone"):
        hold(tmp_path / "lock")
    assert (tmp_path / "lock.held").read_text() == content


def test_a_fork_of_the_holder_does_not_take_the_mark_along(tmp_path, without_flock):
    with hold(tmp_path / "lock") as held:
        child = os.fork()
        if child == 0:
            held.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / "lock.held").exists()
