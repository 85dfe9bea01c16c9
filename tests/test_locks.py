"""Locks: a second process is refused, also on a file system without flock, and a dead holder's lock is free."""

import errno
import fcntl
import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import pytest

from star_rl import locks
from star_rl.errors import StarError

HOLD = "import sys; from pathlib import Path; from star_rl import locks; locks.hold(Path(sys.argv[1]), 'busy', 'wait')"
FORK = multiprocessing.get_context("fork")  # a child inherits the patched flock


def hold(path):
    return locks.hold(path, "another process works here", "wait for it")


def fail_with(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def without_flock(request, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fail_with(request.param))


def hold_and_die(path):
    with hold(path):
        os.kill(os.getpid(), signal.SIGKILL)


def leave_stale_marker(path):
    killed = FORK.Process(target=hold_and_die, args=(path,))
    killed.start()
    killed.join()
    assert path.with_name(f"{path.name}.held").exists()


def test_a_second_holder_is_refused_until_the_first_releases(tmp_path):
    file = tmp_path / "lock"
    file.write_text("kept")
    with hold(file), pytest.raises(StarError, match="another process works here"):
        hold(file)
    hold(file).close()
    assert file.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_lock_may_be_closed_twice(tmp_path):
    held = hold(tmp_path / "lock")
    held.close()
    with hold(tmp_path / "lock"):
        held.close()
        with pytest.raises(StarError):
            hold(tmp_path / "lock")


def test_the_lock_ends_with_its_process(tmp_path):
    subprocess.run([sys.executable, "-c", HOLD, str(tmp_path / "lock")], check=True)
    hold(tmp_path / "lock").close()


def test_another_error_is_not_taken_for_a_second_process(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fail_with(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        hold(tmp_path / "lock")
    with pytest.raises(StarError, match="cannot write"):
        hold(tmp_path / "lock" / "below a file")


def test_without_flock_a_marker_names_the_holder(tmp_path, without_flock, capsys):
    file, marker = tmp_path / "lock", tmp_path / "lock.held"
    with hold(file):
        assert capsys.readouterr().err.count("\n") == 1
        who = rf"process {os.getpid()} on {socket.gethostname()}, there since 20\d\d-"
        with pytest.raises(StarError, match=rf"another process works here - delete {marker} if {who}"):
            hold(file)
        assert marker.exists()
    assert not marker.exists()


def test_the_marker_of_a_killed_process_is_replaced(tmp_path, without_flock):
    leave_stale_marker(tmp_path / "lock")
    with hold(tmp_path / "lock"):
        assert (tmp_path / "lock.held").read_text().startswith(f"{os.getpid()}\n")


def test_a_process_that_got_the_number_of_a_dead_one_is_not_the_holder(tmp_path, without_flock):
    with hold(tmp_path / "lock"):
        pid, host, start = (tmp_path / "lock.held").read_text().splitlines()
    (tmp_path / "lock.held").write_text(f"{pid}\n{host}\n{int(start) - 1}\n")
    hold(tmp_path / "lock").close()


@pytest.mark.parametrize("content", ["1\nfar\n1\n", "", "[]"])
def test_the_marker_of_another_machine_and_an_unreadable_one_stay(tmp_path, without_flock, content):
    (tmp_path / "lock.held").write_text(content)
    with pytest.raises(StarError, match=r"if (process 1 on far, .*|the process that wrote it) is gone"):
        hold(tmp_path / "lock")
    assert (tmp_path / "lock.held").read_text() == content


def test_a_fork_of_the_holder_leaves_the_marker(tmp_path, without_flock):
    with hold(tmp_path / "lock") as held:
        child = FORK.Process(target=held.close)
        child.start()
        child.join()
        assert (tmp_path / "lock.held").exists()
    assert not (tmp_path / "lock.held").exists()


def claim(paths, ready, claimed, done):
    for path in paths:
        ready.wait()
        try:
            held = hold(path)
        except StarError:
            held = None
        claimed.put(held is not None)
        done.wait()
        if held:
            held.close()


def test_one_of_many_processes_gets_a_stale_marker(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", fail_with(errno.ENOSYS))
    number, paths = 8, [tmp_path / f"lock{k}" for k in range(10)]
    for path in paths:
        leave_stale_marker(path)
    ready, done, claimed = FORK.Barrier(number), FORK.Barrier(number + 1), FORK.Queue()
    processes = [FORK.Process(target=claim, args=(paths, ready, claimed, done), daemon=True) for _ in range(number)]
    for process in processes:
        process.start()
    for _ in paths:
        assert [claimed.get(timeout=60) for _ in range(number)].count(True) == 1
        done.wait()
    for process in processes:
        process.join()
