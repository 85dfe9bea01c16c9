"""Processes started as forks must be as those that ``python`` starts: arguments, files, environment, end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from star_rl.errors import StarError
from star_rl.integrations import warm

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The stand-in of a server that has its imports done."""
    before = os.environ.pop(warm.VARIABLE, None)
    folder = tmp_path_factory.mktemp("warm")
    log = folder / "warm.log"
    # As some packages do: a temporary folder made by an import, to be removed at the end of the process.
    (folder / "uvicorn.py").write_text("import tempfile; kept = tempfile.TemporaryDirectory()")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        context = warm.serving(log)
        context.__enter__()
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.push(context)
        path = warm.python()
        done = subprocess.run([path, "-c", "import sys; print('torch' in sys.modules)"], capture_output=True, text=True)
        assert done.stdout.strip() == "True", log.read_text()
        yield path
    if before is not None:
        os.environ[warm.VARIABLE] = before


def test_a_module_a_script_and_a_command_see_their_arguments(python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, os; print(sys.argv, __name__, sys.path[0], os.getcwd())")
    (tmp_path / "module.py").write_text("import sys; print(sys.argv[1:], __name__, __file__)")

    def said(*arguments):
        return subprocess.run([python, *arguments], capture_output=True, text=True, cwd=tmp_path, check=True).stdout

    assert said(str(script), "a b", "-c") == f"['{script}', 'a b', '-c'] __main__ {tmp_path} {tmp_path}\n"
    assert said("-u", "-m", "module", "x") == f"['x'] __main__ {tmp_path / 'module.py'}\n"
    assert said("-X", "utf8", "-c", "import sys; print(sys.argv)", "-y") == "['-c', '-y']\n"


def test_the_environment_is_the_callers_and_random_numbers_differ(python, tmp_path):
    code = (
        "import os, sys, random, numpy, torch, json; print(json.dumps([dict(os.environ), sys.path, random.random(), "
        "numpy.random.rand(), torch.get_num_threads()]))"
    )
    (tmp_path / "extra").mkdir()
    given = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "2", "PYTHONPATH": str(tmp_path / "extra"), "ODD": "ü\n"}

    def said():
        return json.loads(subprocess.run([python, "-c", code], env=given, capture_output=True, check=True).stdout)

    first, second = said(), said()
    assert {name: first[0][name] for name in given} == given and "VLLM_PLUGINS" not in first[0]
    assert str(tmp_path / "extra") in first[1] and first[4] == 2
    assert first[2] != second[2] and first[3] != second[3]


def test_a_fork_has_a_process_group_of_its_own(python):
    code = "import os; print(os.getpgid(0) == os.getpid())"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize(
    ("code", "returned", "words"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no such thing')", 1, "no such thing"),
        ("raise ValueError('odd')", 1, "ValueError: odd"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import atexit, sys; atexit.register(lambda: print('last', file=sys.stderr))", 0, "last"),
        ("import threading, time; threading.Thread(target=lambda: (time.sleep(.2), print(1/0))).start()", 0, "Zero"),
    ],
)
def test_it_ends_as_python_would(python, code, returned, words):
    for executable in (python, sys.executable):
        done = subprocess.run([executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == returned and words in done.stderr, executable


def test_a_folder_of_an_import_outlasts_a_fork(python):
    code = "import uvicorn; print(uvicorn.kept.name)"
    folders = {subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip() for _ in range(2)}
    assert len(folders) == 1 and os.path.isdir(folders.pop())


def test_open_files_and_pipes_are_handed_over(python):
    reading, writing = os.pipe()
    code = f"import os, sys; os.write({writing}, sys.stdin.buffer.read()[::-1])"
    started = subprocess.Popen([python, "-c", code], stdin=subprocess.PIPE, pass_fds=(writing,))
    os.close(writing)
    started.communicate(b"abc")
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"cba", "the pipe ends with the fork"


def test_multiprocessing_spawns_through_it(python, tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(
        "import multiprocessing as m, sys\n"
        "def work(queue): queue.put('vllm' in sys.modules)\n"
        "if __name__ == '__main__':\n"
        f"    context = m.get_context('spawn'); m.set_executable({python!r})\n"
        "    queue = context.Queue(); process = context.Process(target=work, args=(queue,)); process.start()\n"
        "    print(queue.get(timeout=60)); process.join(); print(process.exitcode)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=90)
    assert done.stdout.split() == ["True", "0"], done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ending_the_stand_in_ends_the_fork(python, number):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    started = subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True)
    fork = int(started.stdout.readline())
    assert fork != started.pid
    started.send_signal(number)
    assert started.wait(timeout=20) == -number
    deadline = time.monotonic() + 20
    while psutil.pid_exists(fork) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(fork)
    started.stdout.close()


def test_without_a_server_it_is_plain_python(tmp_path):
    arguments = ["-I", "-S", warm.__file__, "client", str(tmp_path / "none"), "-c", "import sys; print(len(sys.argv))"]
    done = subprocess.run([sys.executable, *arguments, "x"], capture_output=True, text=True)
    assert done.stdout.strip() == "2" and done.returncode == 0


def test_it_can_be_turned_off_and_nests(python, tmp_path, monkeypatch):
    with warm.serving(tmp_path / "log"):
        assert warm.python() == python, "a server inside another would import all again"
    monkeypatch.setenv(warm.VARIABLE, "0")
    with warm.serving(tmp_path / "log"):
        assert warm.python() == sys.executable


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.delenv(warm.VARIABLE, raising=False)
    with pytest.raises(StarError), warm.serving(tmp_path / "log"):
        folder = os.path.dirname(warm.python())
        raise StarError("stopped before the imports were done")
    assert not os.path.exists(folder) and warm.VARIABLE not in os.environ
    assert not [p for p in psutil.process_iter() if folder in " ".join(p.cmdline() if p.status() != "zombie" else [])]


def test_an_import_that_catches_everything_does_not_keep_the_server_alive(tmp_path, monkeypatch):
    marker = tmp_path / "importing"
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        f"import time\ntry:\n    open({str(marker)!r}, 'w').close()\n    time.sleep(600)\n"
        "except BaseException:\n    pass\ntime.sleep(600)\n"
    )
    monkeypatch.delenv(warm.VARIABLE, raising=False)
    monkeypatch.setattr(warm, "_PATIENCE", 600)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    began = time.monotonic()
    with warm.serving(tmp_path / "log"):
        while not marker.exists():
            time.sleep(0.05)
    assert time.monotonic() - began < 300, "the end was lost in the import"
