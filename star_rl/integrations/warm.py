"""Start Python processes as forks of one that has the slow imports behind it. Only without an accelerator.

One GRPO run starts ten processes, one after the other, and each spends 7 to 20 s of CPU importing torch, transformers
and vLLM: on two cores that is most of a short run. Here one process imports them once, beside the first stages, and
each process started through :func:`python` is its fork. Ray offers the way in (``runtime_env.py_executable``), as does
``multiprocessing.set_executable`` for vLLM's engine process; nothing of theirs is changed.

    serve DESCRIPTOR           imports, then forks at each request that comes to this listening socket
    client SOCKET ARGUMENTS..  stands where ``python ARGUMENTS..`` would: hands over its arguments, environment, folder
                               and open files, passes signals on, and ends as the fork ended. Becomes plain Python where
                               nobody serves. Killed, it takes the fork with it.

Ray is not among the imports: its threads and locks do not survive a fork. The client runs on the standard library
alone, without site packages.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Where the stand-in for ``python`` lies, for this process and all it starts; ``0`` set by the user turns all this off.
VARIABLE = "STAR_RL_WARM"

#: Imported in this order, as far as installed: what several of the processes want, and no module of this project.
MODULES = (
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "tensordict",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.auto.modeling_auto",
    "pandas",
    "scipy.stats",
    "datasets",
    "accelerate",
    "peft",
    "hydra",
    "openai",
    "networkx",
    "fastapi",
    "uvicorn",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.core.sched.scheduler",
    "vllm.model_executor.models.qwen3",
)
#: Environment of the imports. The rest of a fork's environment comes with its request.
_ENVIRONMENT = {
    "VLLM_PLUGINS": "none",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_NUM_THREADS": "1",  # a pool of threads would not survive the fork; `_threads` sets each fork's own number
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # the other ones start a thread
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
_MAX_DESCRIPTORS = 64
#: Seconds that the server has for its end.
_PATIENCE = 20.0


def python() -> str:
    """What to start in place of ``sys.executable``: the stand-in where one serves, else ``sys.executable`` itself."""
    stand_in = os.environ.get(VARIABLE, "0")
    return stand_in if stand_in != "0" and Path(stand_in).is_file() else sys.executable


@contextlib.contextmanager
def serving(log: Path) -> Iterator[None]:
    """Serve forks to this process and all it starts, for the length of the block. The imports go on beside it.

    Where somebody serves already, or the variable :data:`VARIABLE` is ``0``, nothing is done.
    """
    if VARIABLE in os.environ:
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="star-warm-"))  # for this user's eyes only: whoever connects may run code
    stand_in, path = folder / "python", folder / "socket"
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" client "{path}" "$@"\n')
    stand_in.chmod(0o700)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)  # clients that come during the imports wait here: they would only import the same
        server = subprocess.Popen(
            [sys.executable, "-P", __file__, "serve", str(listener.fileno())],
            pass_fds=(listener.fileno(),),
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    os.environ[VARIABLE] = str(stand_in)
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        server.terminate()
        try:
            server.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def serve(descriptor: int) -> None:
    """Import, then fork for every client, until this process is terminated or its parent is gone."""
    import importlib

    parent, began = os.getppid(), time.monotonic()
    base = [entry for entry in sys.path if entry not in _entries(os.environ.get("PYTHONPATH"))]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an exception would be lost in an import that catches everything
    with socket.socket(fileno=descriptor) as listener:
        for name in MODULES:
            with contextlib.suppress(Exception):  # absent, or of another version: the fork that needs it will say so
                importlib.import_module(name)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if "ray" in sys.modules:
            print("not serving: one of the imports brought in ray, which does not survive a fork", file=sys.stderr)
            return
        print(f"serving after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        children: dict[int, socket.socket] = {}
        try:
            while os.getppid() == parent:
                ready, _, _ = select.select([listener, *children.values()], [], [], 0.1)
                if listener in ready:
                    _fork(listener, children, base)
                for pid, connection in children.items():
                    if connection in ready:  # clients say nothing more: this one is gone
                        _signal(pid, signal.SIGKILL)
                _reap(children)
        finally:
            for pid in children:
                _signal(pid, signal.SIGTERM)


def _fork(listener: socket.socket, children: dict[int, socket.socket], base: list[str]) -> None:
    connection, _ = listener.accept()
    with contextlib.suppress(OSError, ValueError):
        request, descriptors = _receive(connection)
        pid = os.fork()
        if pid == 0:
            for other in (listener, connection, *children.values()):
                other.close()
            _become(request, descriptors, base)
        for descriptor in descriptors:
            os.close(descriptor)
        children[pid] = connection
        connection.sendall(f"{pid}\n".encode())


def _reap(children: dict[int, socket.socket]) -> None:
    """Tell the clients of ended forks how those ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in children:
                with contextlib.suppress(OSError), children.pop(pid) as connection:
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The request, and its open files in the order of ``request["descriptors"]``."""
    size = array.array("i").itemsize * _MAX_DESCRIPTORS
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(size))
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    wanted, body = int.from_bytes(head, "big"), b""
    while len(body) < wanted:
        block = connection.recv(wanted - len(body))
        if not block:
            raise ValueError("the client left")
        body += block
    return json.loads(body), list(descriptors)


def _become(request: dict[str, Any], descriptors: list[int], base: list[str]) -> None:
    """Turn this fork into the process the client asked for; does not return."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)  # when a worker dies, Ray kills its process group: that must not be the launcher's
        # Received numbers may stand where others belong: move all out of the way first.
        high = [_move_high(descriptor) for descriptor in descriptors]
        for source, number in zip(high, request["descriptors"], strict=True):
            os.dup2(source, number, inheritable=True)
            os.close(source)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path[:] = [*_entries(os.environ.get("PYTHONPATH")), *base]
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        _disown()
        _reseed()
        _threads()
        _run(request["arguments"])
        code = 0
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            import threading

            threading._shutdown()  # type: ignore[attr-defined]  # joins threads, as the interpreter's end does
            import atexit

            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _entries(path: str | None) -> list[str]:
    return [entry for entry in (path or "").split(os.pathsep) if entry]


def _move_high(descriptor: int) -> int:
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 512)
    os.close(descriptor)
    return moved


def _disown() -> None:
    """What the imports opened is the server's to close: a temporary folder must outlast the first fork that ends."""
    import weakref

    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.detach()


def _reseed() -> None:
    """Forks would otherwise draw the same random numbers."""
    import random

    import numpy

    random.seed()
    numpy.random.seed(int.from_bytes(os.urandom(4), "big"))


def _threads() -> None:
    """OpenMP read its variable when torch was imported, before this fork's environment was known."""
    number = os.environ.get("OMP_NUM_THREADS", "")
    import torch

    torch.set_num_threads(int(number) if number.isdigit() and int(number) else len(os.sched_getaffinity(0)))


def _run(arguments: list[str]) -> None:
    """``python ARGUMENTS..``: a script, ``-m module`` or ``-c code``, after options of the interpreter."""
    import runpy
    import types

    place = 0
    while arguments[place].startswith("-") and arguments[place] not in ("-c", "-m"):
        place += 2 if arguments[place] in ("-X", "-W") else 1
    kind, rest = arguments[place], arguments[place + 1 :]
    if kind == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [kind, *rest]
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        runpy.run_path(kind, run_name="__main__")


def client(path: str, arguments: list[str]) -> int:
    """Ask the server for ``python ARGUMENTS..``; returns its exit code. Becomes plain Python where nobody serves."""
    descriptors = sorted({0, 1, 2, *_open_descriptors()})[:_MAX_DESCRIPTORS]
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        body = json.dumps(
            {
                "arguments": arguments,
                "environment": dict(os.environ),
                "folder": os.getcwd(),
                "descriptors": descriptors,
            }
        ).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        connection.sendmsg([len(body).to_bytes(8, "big")], rights)
        connection.sendall(body)
        answers = connection.makefile("r")
        first = answers.readline()
    except OSError:
        first = ""
    if not first:
        os.execv(sys.executable, [sys.executable, *arguments])
    for number in descriptors:
        if number > 2:
            os.close(number)  # a pipe must end with the fork, not with this process
    child = int(first)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda given, _: _signal(child, given))
    last = answers.readline()
    code = int(last) if last else 1
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _open_descriptors() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.append(int(name))
    return found


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        sys.exit(client(sys.argv[2], sys.argv[3:]))
