"""Cluster manifests: valid YAML, the pinned Ray, GPUs as the recipe asks; the Slurm script starts a real cluster."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from star_rl.integrations.verl.recipe import load_recipe
from star_rl.pins import pins_of

FOLDER = Path("launch/manifests")


@pytest.mark.parametrize("name", ["kuberay-cluster", "kuberay-job"])
def test_kuberay_manifests_fit_the_recipe_and_the_pins(name):
    tree = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    spec = tree["spec"] if tree["kind"] == "RayCluster" else tree["spec"]["rayClusterSpec"]
    assert tree["apiVersion"] == "ray.io/v1"
    assert spec["rayVersion"] == pins_of(Path("setup.py"), "gpu")["ray"]
    trainer = load_recipe("recipes/grpo/table5.yaml").verl["trainer"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert sum(group.get("replicas", 1) for group in groups) == trainer["nnodes"]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        gpus = container["resources"]["limits"]["nvidia.com/gpu"]
        assert gpus == int(group["rayStartParams"]["num-gpus"]) == trainer["n_gpus_per_node"]
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes == {"shared", "shm"}


@pytest.mark.parametrize("name", ["kuberay-cluster", "kuberay-job"])
def test_kuberay_nodes_can_use_a_fast_network(name):
    """What is commented out for clusters without it is valid where it stands, on every node."""
    text = (FOLDER / f"{name}.yaml").read_text()
    text = re.sub(r"^( +)# (env:|  - \{name: \w+, value|rdma/)", r"\1\2", text, flags=re.MULTILINE)
    tree = yaml.safe_load(text)
    spec = tree["spec"] if tree["kind"] == "RayCluster" else tree["spec"]["rayClusterSpec"]
    built = re.search(
        r"docker build -f packaging/Dockerfile.gpu -t (\S+) \.", Path("packaging/Dockerfile.gpu").read_text()
    )
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
        assert container["resources"]["limits"]["rdma/hca_shared_devices_a"] == 1
        names = [variable["name"] for variable in container["env"]]
        assert names == ["NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"]
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
        assert container["image"] == built.group(1)


def test_the_job_s_entrypoint_is_one_command():
    """KubeRay joins it into a shell line of the submitter's Pod."""
    entrypoint = yaml.safe_load((FOLDER / "kuberay-job.yaml").read_text())["spec"]["entrypoint"]
    assert not set(entrypoint) & set("&;|\n<>$`")


def test_no_manifest_holds_a_value_of_a_secret():
    for path in FOLDER.iterdir():
        named = re.findall(r"(\w+), value:", path.read_text())
        assert "API_KEY=" not in path.read_text() and path.read_text().count("value:") == len(named)
        assert all(name.startswith(("NCCL_", "GLOO_")) for name in named)


def test_the_slurm_script_parses():
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=True)
    usage = subprocess.run(["bash", str(FOLDER / "slurm.sh")], capture_output=True, text=True)
    assert usage.returncode == 1 and "usage: sbatch slurm.sh RECIPE" in usage.stderr


def stubs(folder, **bodies):
    """Commands of those names, in ``folder``."""
    for name, body in bodies.items():
        file = folder / name
        file.write_text(f"#!/usr/bin/env bash\n{body}\n")
        file.chmod(0o755)


@pytest.fixture
def slurm(tmp_path):
    """An allocation of two nodes, both this machine, whose commands say in ``calls`` how they were called; starts the
    script with what ``star-rl status ID [--follow]`` shall do."""
    calls, started = tmp_path / "calls", []
    loopback = next(name for name, held in psutil.net_if_addrs().items() if "127.0.0.1" in [a.address for a in held])
    stubs(
        tmp_path,
        srun='while [[ $1 == --* ]]; do shift; done\nexec "$@"',
        sleep="",  # the script's pauses
        python=f'exec {sys.executable} "$@"',
        ray=f'echo "ray $* [$GLOO_SOCKET_IFNAME $NCCL_SOCKET_IFNAME]" >>{calls}\n'
        f"echo $$ >{tmp_path}/$([[ $* == *--head* ]] && echo head || echo worker)\nexec tail -f /dev/null",
    )

    def start(follow, status="echo 'star-one-0  RUNNING  7 s  /runs/one'", state="RUNNING", **variables):
        stubs(
            tmp_path,
            **{
                "scontrol": f'echo "scontrol $*" >>{calls}\ncase $1$2 in\n'
                "showhostnames) echo 127.0.0.1; echo 127.0.0.1;;\n"
                f'showjob) echo "JobState={state} Requeue=1";;\nesac',
                "star-rl": f'echo "star-rl $*" >>{calls}\ncase "$*" in\n'
                "submit*) echo 'star-one-0: sent'; echo 'star-rl status one --follow shows it';;\n"
                f"*--follow*) until [[ -s {tmp_path}/head && -s {tmp_path}/worker ]]; do command -p sleep 0.02; done\n"
                f"{follow};;\nstatus*) {status};;\nesac",
            },
        )
        process = subprocess.Popen(
            ["bash", str(FOLDER / "slurm.sh"), "recipe.yaml", "name=one"],
            env={name: value for name, value in os.environ.items() if "SOCKET_IFNAME" not in name}
            | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "both",
               "STAR_RL_BIN": str(tmp_path), "RAY_AUTH_MODE": "disabled", "RAY_DASHBOARD_PORT": "9"} | variables,
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield SimpleNamespace(start=start, folder=tmp_path, loopback=loopback, calls=lambda: calls.read_text().splitlines())
    left = [int((tmp_path / name).read_text()) for name in ("head", "worker")]
    left = [pid for pid in left if psutil.pid_exists(pid)]
    for pid in [*left, *(process.pid for process in started if process.poll() is None)]:
        os.kill(pid, 9)
    assert not left, "the script left a node behind"


FAILS_ONCE = "[[ -e {0}/failed ]] && exit; touch {0}/failed; exit 2"


@pytest.mark.parametrize("status", ["echo 'star-one-0  RUNNING  7 s  /runs'", "exit 2"], ids=["runs", "no answer"])
def test_slurm_follows_again_while_the_job_goes_on(slurm, status):
    process = slurm.start(FAILS_ONCE.format(slurm.folder), status)
    out, err = process.communicate()
    assert process.returncode == 0, err
    follow = "star-rl status star-one-0 --follow --address http://127.0.0.1:9"
    assert "star-one-0: sent" in out and slurm.calls().count(follow) == 2


def test_slurm_ends_with_the_job_s_code(slurm):
    process = slurm.start("exit 3", "echo 'star-one-0  FAILED  7 s  /runs'")
    process.communicate()
    assert process.returncode == 3


def test_slurm_ends_when_its_head_has(slurm):
    process = slurm.start(f"kill $(<{slurm.folder}/head); exec tail -f /dev/null")
    _, err = process.communicate()
    assert process.returncode == 1 and "`ray start` has ended" in err


@pytest.mark.parametrize("state", ["RUNNING", "CANCELLED"])
def test_slurm_s_warning_stops_the_job_and_requeues_it_unless_it_was_cancelled(slurm, state):
    process = slurm.start("kill -TERM $PPID; exec tail -f /dev/null", state=state)
    _, err = process.communicate()
    assert process.returncode == 143, err
    assert "star-rl stop star-one-0 --address http://127.0.0.1:9" in slurm.calls()
    assert ("scontrol requeue 7" in slurm.calls()) == (state == "RUNNING")


def test_slurm_names_the_interface_of_each_node_s_address(slurm):
    slurm.start("exit").communicate()
    nodes = [line for line in slurm.calls() if line.startswith("ray start")]
    assert len(nodes) == 2 and sum("--head" in line for line in nodes) == 1
    assert all(line.endswith(f"[{slurm.loopback} {slurm.loopback}]") for line in nodes)


def test_slurm_leaves_an_interface_that_the_user_names(slurm):
    slurm.start("exit", NCCL_SOCKET_IFNAME="ib0").communicate()
    assert any(line.endswith(f"[{slurm.loopback} ib0]") for line in slurm.calls())


def test_slurm_asks_for_a_warning_before_the_end():
    text = (FOLDER / "slurm.sh").read_text()
    for option in ("--signal=B:TERM@300", "--requeue", "--open-mode=append"):
        assert f"\n#SBATCH {option}\n" in text


def test_every_command_that_is_shown_is_whole():
    """A recipe that asks a served teacher is sent with its endpoint and its data, or it is refused."""
    pages = [Path("docs/cluster.md"), Path("recipes/amazon.yaml"), *FOLDER.iterdir()]
    shown = 0
    for page in pages:
        lines = iter(page.read_text().splitlines())
        for line in lines:
            if not any(words in line for words in ("star-rl submit", "sbatch launch")) or " amazon " not in line:
                continue
            command = line
            while "--follow" not in command and (line := next(lines, "").strip(" #")):
                command += f" {line}"
            shown += 1
            assert "source.root=" in command and "teacher.options.chat.endpoints=" in command, (page, command)
    assert shown >= 5


@pytest.mark.slow
def test_the_slurm_script_starts_a_cluster_and_runs_a_recipe(tmp_path):
    """With ``srun`` and ``scontrol`` that stand for an allocation of this one machine."""
    stubs(tmp_path, scontrol="echo localhost", srun='while [[ $1 == --* ]]; do shift; done\nexec "$@"')
    ports = []
    for _ in range(3):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": f"t{os.getpid()}",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_GPUS_ON_NODE": "0", "STAR_RL_BIN": str(Path(sys.executable).parent), "RAY_PORT": str(ports[0]),
        "RAY_DASHBOARD_PORT": str(ports[1]), "RAY_AGENT_PORT": str(ports[2]),
        "SLURM_CPUS_PER_TASK": "2", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)  # the script makes a token for its own cluster
    temporary = Path(f"/tmp/ray_t{os.getpid()}")
    result = subprocess.run(
        ["bash", str(FOLDER / "slurm.sh"), "recipes/quickstart.yaml", f"out={tmp_path}/runs",
         "source.options={users: 100, items: 80}", "--until", "tables", "--extra", "cpu"],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    shutil.rmtree(temporary, ignore_errors=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "preflight: 1 node(s)" in result.stdout and (tmp_path / "runs/quickstart/tables/manifest.json").is_file()
    assert not list(Path().glob(".ray-token-*"))
