"""The teacher over HTTP against a real vLLM server that this script starts and stops.

    python benchmarks/teacher_vllm.py [--model DIR] [--tasks 8] [--in-flight 4] [--out DIR]

Without ``--model`` a Qwen3 of under a million random parameters is made: its answers are noise, which is the point.
Every run has to end as a trajectory or as a recorded failure. Exit code 1 where a run is missing or stands twice.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from star_rl.chat import ChatClient, ChatOptions
from star_rl.errors import StarError
from star_rl.mars import Team, TeamOptions, identity_of, read_runs, teach
from star_rl.mars.llm import LlmBackend, LlmOptions
from star_rl.mars.view import write_page
from star_rl.prompts import Case
from star_rl.prompts.agents import Brief, agent_messages, prompts_version
from star_rl.tools import TOOL_SCHEMAS, ToolBox
from star_rl.trajectory import parse, render

_CONTEXT = 8192
_START_SECONDS = 300


def synthetic() -> Any:
    """The world of the builders' benchmark."""
    path = Path(__file__).with_name("trajectories.py")
    spec = importlib.util.spec_from_file_location("benchmark_trajectories", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_model(folder: Path, cases: list[Case], ids: list[str]) -> Path:
    """A random Qwen3 whose tokenizer knows the prompts of the agents."""
    from star_rl.student.model import StudentShape, make_student
    from star_rl.student.template import render as as_chat
    from star_rl.student.tokenizer import train_tokenizer

    texts = []
    for case in cases[:20]:
        brief = Brief(case)
        for agent in ("Planner", "User_Profile_Summary", "Reflector", "Ranker"):
            talk = agent_messages(agent, brief, tools=True)
            texts.append(
                as_chat([*talk, {"role": "assistant", "content": "<JSON>[]</JSON>"}], json.dumps(TOOL_SCHEMAS))
            )
    train_tokenizer(texts, ids, folder, max_length=_CONTEXT)
    make_student(folder, folder, StudentShape(max_length=_CONTEXT))
    return folder


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(model: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """``vllm serve`` in a process group of its own, so that its workers end with it."""
    command = [
        *(str(Path(sys.executable).with_name("vllm")), "serve", str(model), "--served-model-name", "teacher"),
        *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(_CONTEXT), "--dtype", "float32"),
        *("--max-num-seqs", "16", "--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--enforce-eager"),
    ]
    environment = {
        **os.environ,
        "VLLM_PLUGINS": "none",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",  # threads that wait for each other cost a tiny model more than its arithmetic
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with open(log, "wb") as handle:
        return subprocess.Popen(
            command, stdout=handle, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it answers.

    Raises:
        StarError: it ended, or did not answer in time; its last lines are in the message.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
    raise StarError(f"vLLM did not start:\n{last}", f"read {log}")


async def run(options: argparse.Namespace, port: int, out: Path, world: Any) -> dict[str, Any]:
    items, histories, tasks = world
    store = synthetic().Store(list(items))
    chat_options = ChatOptions(
        (f"http://127.0.0.1:{port}/v1",),
        "teacher",
        max_tokens=128,
        concurrency=options.in_flight,
        timeout=120.0,
        cache=str(out / "cache.sqlite"),
    )
    async with ChatClient(chat_options) as chat:
        backend = LlmBackend(chat, LlmOptions(turns=3))
        team = Team(backend, lambda case: ToolBox(store, case.candidates), TeamOptions(planner=options.planner))
        account = await teach(
            tasks[: options.tasks],
            team,
            lambda task: Case.of(task, histories[task.user_id], items),
            out / "runs",
            identity_of(team, prompts_version(), "teacher", "synthetic"),
            concurrency=options.in_flight,
            progress=lambda done, total, note: print(f"  {done:.0f} of {total:.0f} runs, {note}", flush=True),
        )
        return {"account": account.figures(), "chat": chat.usage.figures()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="folder of a model with a chat template")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--no-planner", dest="planner", action="store_false", help="go on to the experts at once")
    parser.add_argument("--out", type=Path, help="keep runs, page and the server's log here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        world = synthetic().world(max(20, options.tasks))
        items, histories, tasks = world
        cases = [Case.of(task, histories[task.user_id], items) for task in tasks]
        model = options.model or tiny_model(Path(scratch) / "model", cases, list(items))
        port, log = free_port(), out / "vllm.log"
        began = time.monotonic()
        server = start(model, port, log)
        try:
            wait_for(server, port, log)
            print(f"vLLM serves {model} after {time.monotonic() - began:.0f} s", flush=True)
            figures = asyncio.run(run(options, port, out, world))
        except StarError as error:
            print(error, file=sys.stderr)
            return 2
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
                try:
                    server.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(server.pid, signal.SIGKILL)
        runs = list(read_runs(out / "runs"))
        counts = Counter(entry.id for entry in runs)
        identical = sum(render(parse(entry.text)) == entry.text for entry in runs)
        write_page(out / "runs", out / "page.html", items)
    print(json.dumps(figures, indent=1))
    for reason, count in Counter(str(entry.failure or "ranked")[:120] for entry in runs).most_common(8):
        print(f"  {count:4} {reason}")
    print(f"{len(runs)} of {options.tasks} tasks ended, {identical} round-trip")
    return 0 if len(runs) == len(counts) == options.tasks == identical else 1


if __name__ == "__main__":
    raise SystemExit(main())
