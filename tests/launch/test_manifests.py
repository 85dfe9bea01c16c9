"""Cluster manifests: valid YAML, the pinned Ray, GPUs as the recipe asks; the Slurm script starts a real cluster."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch import preflight
from star_rl.integrations.verl.recipe import load_recipe

FOLDER = Path("launch/manifests")


@pytest.mark.parametrize("name", ["kuberay-cluster", "kuberay-job"])
def test_kuberay_manifests_fit_the_recipe_and_the_pins(name):
    tree = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    spec = tree["spec"] if tree["kind"] == "RayCluster" else tree["spec"]["rayClusterSpec"]
    assert tree["apiVersion"] == "ray.io/v1"
    assert spec["rayVersion"] == preflight.pins(Path("setup.py"), "gpu")["ray"]
    trainer = load_recipe("recipes/grpo/table5.yaml").verl["trainer"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert sum(group.get("replicas", 1) for group in groups) == trainer["nnodes"]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        gpus = container["resources"]["limits"]["nvidia.com/gpu"]
        assert gpus == int(group["rayStartParams"]["num-gpus"]) == trainer["n_gpus_per_node"]
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes == {"shared", "shm"}


def test_the_job_s_entrypoint_is_one_command():
    """KubeRay joins it into a shell line of the submitter's Pod."""
    entrypoint = yaml.safe_load((FOLDER / "kuberay-job.yaml").read_text())["spec"]["entrypoint"]
    assert not set(entrypoint) & set("&;|\n<>$`")


def test_no_manifest_holds_a_value_of_a_secret():
    for path in FOLDER.iterdir():
        assert "API_KEY=" not in path.read_text() and "value:" not in path.read_text()


def test_the_slurm_script_parses():
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=True)
    usage = subprocess.run(["bash", str(FOLDER / "slurm.sh")], capture_output=True, text=True)
    assert usage.returncode == 1 and "usage: sbatch slurm.sh RECIPE" in usage.stderr


def test_every_command_that_is_shown_is_whole():
    """A recipe that asks a served teacher is sent with its endpoint and its data, or it is refused."""
    pages = [Path("docs/cluster.md"), Path("recipes/amazon.yaml"), *FOLDER.iterdir()]
    shown = 0
    for page in pages:
        lines = iter(page.read_text().splitlines())
        for line in lines:
            if (
                not any(words in line for words in ("star-rl submit", "sbatch launch"))
                or "recipes/amazon.yaml" not in line
            ):
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
    stubs = {
        "scontrol": "echo localhost",
        "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
    }
    for name, body in stubs.items():
        file = tmp_path / name
        file.write_text(f"#!/usr/bin/env bash\n{body}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
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
