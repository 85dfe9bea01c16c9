"""Jobs on a real Ray cluster: sent, followed, refused, stopped, resumed, and no value of a variable anywhere."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from star_rl import pins
from star_rl.errors import StarError
from star_rl.launch import cli, job, preflight, secret, submit
from star_rl.pipeline.chain import STAGES
from star_rl.pipeline.recipe import load
from star_rl.plan.shapes import QWEN3

HOST = "teacher.options.chat.endpoints=[http://127.0.0.1:8000/v1]"
VALUE = "key-8d1f0c77b2aa41e9"
RAY = Path(sys.executable).with_name("ray")


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def cluster():
    """A head with a dashboard, in a process group and a folder of its own."""
    gcs, board, agent, grpc, metrics, client = free_ports(6)
    folder = Path(f"/tmp/rl{os.getpid()}")  # short: Unix sockets below it have 107 characters
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Without a token: this process may have read its own mode long ago, and the cluster lives for these tests alone.
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    command = [
        str(RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}",
        f"--temp-dir={folder}",
        "--include-dashboard=true", f"--dashboard-port={board}", f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={grpc}", f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}",
        "--num-cpus=2", "--object-store-memory=100000000",
    ]  # fmt: skip
    log = open(f"{folder}.log", "wb")  # noqa: SIM115
    head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{board}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                submit.connect(address).list_jobs()
                break
            except Exception:  # whatever a dashboard that is still starting answers; the deadline decides
                if time.monotonic() > deadline or head.poll() is not None:
                    pytest.fail("no Ray head: " + Path(f"{folder}.log").read_text()[-2000:])
                time.sleep(0.5)
        yield address, folder
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(head.pid, sign)
                head.wait(8)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        log.close()
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}.log").unlink(missing_ok=True)


def arguments(address, shared, name, users, *more):
    return [
        "submit", "recipes/quickstart.yaml", f"name={name}", f"source.options={{users: {users}, items: 80}}",
        "split.options={train_per_user: 4, max_test: 20, max_valid: 10}", "--out", str(shared), "--until", "tasks",
        "--address", address, "--extra", "cpu", "--python", sys.executable, *more,
    ]  # fmt: skip


@pytest.mark.engine
def test_a_job_is_sent_followed_and_found_again(cluster, tmp_path, capsys, monkeypatch):
    address, folder = cluster
    monkeypatch.setenv("STAR_TEST_KEY", VALUE)
    assert cli.main(arguments(address, tmp_path, "first", 100, "--env", "STAR_TEST_KEY", "--follow")) == 0
    out, err = capsys.readouterr()
    assert ": sent\n" in out and "preflight: 1 node(s)" in out and "2/2 tasks" in out
    assert out.rstrip().endswith("succeeded")
    assert (tmp_path / "first/tasks/manifest.json").is_file()
    assert not list(tmp_path.glob(".preflight-*"))

    assert cli.main(["status", "--address", address]) == 0
    assert cli.main(["status", "first", "--address", address]) == 0
    listed = capsys.readouterr().out
    assert "SUCCEEDED" in listed and str(tmp_path / "first") in listed

    # Neither in what was printed, nor in the job's metadata, nor in anything that Ray wrote.
    info = submit.connect(address).list_jobs()
    assert VALUE not in out + err + listed + repr(info)
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size < 50_000_000:
            assert VALUE.encode() not in path.read_bytes(), path

    # The run folder shows its stages without any cluster.
    assert cli.main(["status", str(tmp_path / "first")]) == 0
    assert "tables      done" in capsys.readouterr().out


@pytest.mark.engine
def test_a_job_is_stopped_resumed_and_never_doubled(cluster, tmp_path, capsys):
    address, _ = cluster
    shared = tmp_path / "shared"
    assert cli.main(arguments(address, shared, "second", 25000)) == 0
    assert cli.main(arguments(address, shared, "second", 25000)) == 2
    assert "works on run second already" in capsys.readouterr().err
    deadline = time.monotonic() + 120
    while not (shared / "second/tables").is_dir() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert cli.main(["stop", "second", "--address", address]) == 0
    assert "stopped" in capsys.readouterr().out
    assert not (shared / "second/tasks/manifest.json").exists()
    assert cli.main(["stop", "second", "--address", address]) == 2
    assert "has ended already" in capsys.readouterr().err
    assert cli.main(["resume", "second", "--address", address, "--follow"]) == 0
    assert "2/2 tasks" in capsys.readouterr().out
    assert (shared / "second/tasks/manifest.json").is_file()


@pytest.mark.engine
def test_a_cluster_that_is_not_ready_says_so_and_how_to_mend_it(cluster, tmp_path, capsys, monkeypatch):
    address, _ = cluster
    monkeypatch.setattr(pins, "pins_of", lambda *_: {"ray": "9.9.9", "torch": "1.0"})
    assert cli.main(arguments(address, tmp_path, "third", 100, "--follow")) == 2
    out, err = capsys.readouterr()
    assert "this cluster is not ready" in out
    assert "ray is pinned to 9.9.9, but is" in out and "torch is pinned to 1.0" in out and "use one image" in out
    assert "star-rl resume third" in err
    assert not (tmp_path / "third").exists()


@pytest.mark.engine
def test_variables_reach_the_driver_and_its_workers(cluster, tmp_path, monkeypatch):
    address, _ = cluster
    monkeypatch.setenv("STAR_TEST_KEY", VALUE)
    script = (
        "import hashlib, os, ray\nfrom star_rl.launch import secret\nsecret.load()\n"
        "digest = lambda: hashlib.sha256(os.environ.get('STAR_TEST_KEY', '').encode()).hexdigest()\n"
        "ray.init(log_to_driver=False)\nprint('DRIVER', digest())\n"
        "print('WORKER', ray.get(ray.remote(digest).remote()))\n"
    )
    tree = tmp_path / "tree"
    shutil.copytree("star_rl", tree / "star_rl", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tree / "show.py").write_text(script)
    client = submit.connect(address)
    held = secret.Secrets.from_environment(["STAR_TEST_KEY"])
    name = client.submit_job(
        entrypoint=f"{sys.executable} show.py",
        runtime_env={"working_dir": str(tree), **job.parcel(tmp_path, "{}", held)},
    )
    deadline = time.monotonic() + 120
    while client.get_job_status(name).value not in submit.TERMINAL and time.monotonic() < deadline:
        time.sleep(0.5)
    import hashlib

    wanted = hashlib.sha256(VALUE.encode()).hexdigest()
    log = client.get_job_logs(name)
    assert f"DRIVER {wanted}" in log and f"WORKER {wanted}" in log, log[-2000:]


# ------------------------------------------------------------------------------------------------ without a cluster


def ready(tmp_path, *overrides):
    return submit.prepare(load("recipes/quickstart.yaml", [f"out={tmp_path}", *overrides]), Path.cwd())


def test_a_recipe_is_prepared_for_other_machines(tmp_path):
    environment = Path("examples/rejecting_user.py").resolve()
    recipe = ready(
        tmp_path,
        "grpo.reward=rewards/star.py:compute_score",
        "tools.own=[tests.policy.toy:near]",
        f"loop.environment={environment}:RejectingUser",
    )
    assert recipe.tools.own == ["tests.policy.toy:near"]
    assert recipe.loop.environment == "examples/rejecting_user.py:RejectingUser"
    assert recipe.grpo.overrides["ray"] == {"address": "auto"}
    assert recipe.grpo.reward == "rewards/star.py:compute_score"
    assert recipe.grpo.recipe == "grpo/tiny"
    assert ready(tmp_path, "grpo.recipe=[grpo/tiny,recipes/grpo/dapo.yaml]").grpo.recipe == [
        "grpo/tiny",
        "recipes/grpo/dapo.yaml",
    ]


def test_a_run_begun_here_goes_on_there(tmp_path):
    for overrides in ([], ["sft.recipe=[recipes/sft/tiny_cpu.yaml]"]):
        here, there = load("recipes/quickstart.yaml", [f"out={tmp_path}", *overrides]), ready(tmp_path, *overrides)
        for stage in STAGES:
            for section in {*stage.config} - {"grpo"}:
                assert getattr(here, section) == getattr(there, section), (stage.name, section)


@pytest.mark.parametrize(
    "override, says",
    [
        ("out=runs", "out=runs is relative - set out= to an absolute path"),
        ("source.root=./data", "source.root=./data is relative"),
        ("grpo.reward=nothing", "reward=nothing is unknown"),
        ("grpo.recipe=recipes/grpo/none.yaml", "there is no recipe"),
    ],
)
def test_what_a_node_could_not_follow_is_refused_here(tmp_path, override, says):
    with pytest.raises(StarError, match=says):
        ready(tmp_path, override)


@pytest.mark.parametrize("place", ["tests", "mine/build", ".private", "outputs"])
def test_a_reward_that_ray_would_not_send_is_refused(tmp_path, place):
    root = tmp_path / "tree"
    file = root / place / "mine.py"
    file.parent.mkdir(parents=True)
    file.write_text(Path("rewards/star.py").read_text())
    shutil.copy(".gitignore", root)
    recipe = load("recipes/quickstart.yaml", [f"out={tmp_path}", f"grpo.reward={file}"])
    with pytest.raises(StarError, match=r"grpo.reward=.*mine.py is not sent"):
        submit.prepare(recipe, root)


def test_a_reward_outside_the_tree_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(Path("rewards/star.py").read_text())
    with pytest.raises(StarError, match=r"grpo.reward=.*mine.py lies outside"):
        ready(tmp_path, f"grpo.reward={file}")


@pytest.mark.engine
def test_the_needs_of_a_recipe_are_those_of_its_grpo_overlay(tmp_path):
    recipe = submit.prepare(load("recipes/amazon.yaml", [f"out={tmp_path}", "source.root=/data", HOST]), Path.cwd())
    needs = preflight.needs_of(recipe, Path.cwd(), None, None)
    assert (needs.nodes, needs.gpus_per_node, needs.pins["vllm"]) == (
        2,
        8,
        pins.pins_of(Path("setup.py"), "gpu")["vllm"],
    )
    assert needs.pins["flash-attn"] and needs.pins["wandb"] and needs.shared == str(tmp_path)
    assert (needs.driver_gpus, needs.model) == (8, "Qwen/Qwen3-8B")
    assert "megatron-core" not in needs.pins
    assert needs.disk >= 3 * 16 * QWEN3["Qwen3-8B"].parameters  # three of SFT's
    large = ["grpo.recipe=recipes/grpo/megatron-32b.yaml", "student.path=Qwen/Qwen3-32B"]
    recipe = load("recipes/amazon.yaml", [f"out={tmp_path}", "source.root=/data", HOST, *large])
    assert "megatron-core" in preflight.needs_of(submit.prepare(recipe, Path.cwd()), Path.cwd(), None, None).pins
    assert preflight.needs_of(recipe, Path.cwd(), None, "evidence").gpus_per_node == 0
    json.dumps(asdict(needs))


@pytest.mark.engine
def test_a_cluster_that_wants_a_token_says_so(monkeypatch):
    import ray.job_submission
    from ray.exceptions import AuthenticationError

    def refuse(_):
        raise AuthenticationError("no token")

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(StarError, match="wants a token - export"):
        submit.connect(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_cluster_that_does_not_answer_is_named():
    (port,) = free_ports(1)
    with pytest.raises(StarError, match=f"nothing answers at 127.0.0.1:{port}"):
        submit.connect(f"127.0.0.1:{port}")
    with pytest.raises(StarError, match="no cluster is named"):
        submit.connect("")


class _Jobs:
    """A cluster's list of jobs that takes further ones."""

    def __init__(self):
        self.sent = []

    def submit_job(self, **request):
        self.sent.append(request)

    def list_jobs(self):
        of = {"status": "FAILED", "message": "", "start_time": 1, "end_time": 2}
        return [
            SimpleNamespace(submission_id=job["submission_id"], metadata=job["metadata"], **of) for job in self.sent
        ]


@pytest.mark.engine
def test_the_command_that_the_help_shows_is_not_refused(capsys):
    assert cli.main(["submit", "--help"]) == 0
    shown = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  star-rl submit"))
    _, _, file, *rest = shlex.split(shown)
    submit.prepare(load(file, [*(text for text in rest if "=" in text), "out=/shared/runs"]), Path.cwd())


@pytest.mark.engine
def test_a_run_of_any_name_can_be_sent_again_and_again(tmp_path):
    client, none = _Jobs(), secret.Secrets({})
    recipe = load("recipes/quickstart.yaml", [f"out={tmp_path}"])
    recipe.name = "large #2?"
    submit.submit(recipe, client, none, root=Path.cwd(), extra="cpu")
    for _ in range(2):  # the second resume is of the first one's job
        submit.resume(client, "large #2?", [])
    assert re.fullmatch("star-large--2--[0-9a-f]{8}", client.sent[-1]["submission_id"])


def test_what_ray_sends_is_code_and_recipes_and_less_than_two_megabytes(tmp_path):
    from ray._private.runtime_env.packaging import create_package

    target = tmp_path / "package.zip"
    create_package(str(submit.project_root()), target, include_gitignore=True, excludes=submit.EXCLUDES)
    with zipfile.ZipFile(target) as archive:
        names = archive.namelist()
    assert {"setup.py", "launch/job.py", "recipes/grpo/table5.yaml", "rewards/star.py"} <= set(names)
    assert not [name for name in names if name.startswith((".", "tests/", "runs/", "docs/")) or name.endswith(".so")]
    assert target.stat().st_size < 2 << 20
