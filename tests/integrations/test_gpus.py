"""The GPU probe: what a node says is scored line by line, and a child that breaks is an answer too."""

import importlib.util
import os
import time

import pytest

from star_rl.errors import StarError
from star_rl.integrations import gpus
from star_rl.pins import installed_extra

GOOD = {
    "wanted": 1,
    "driver": "580.65.06",
    "alloc": "",
    "shm": 64 * 2**30,
    "cuda": {"torch": "2.11.0+cu130", "cuda": "13.0", "count": 1},
    "devices": [{"name": "NVIDIA H20", "free": 0.99}],
    "flash_attn": None,
    "liger_kernel": None,
    "vllm": None,
}


@pytest.mark.skipif(installed_extra() != "gpu", reason="the CPU build has other kernels (make test-gpu-pins)")
def test_vllm_has_the_kernels_that_are_asked_for():
    assert importlib.util.find_spec(gpus.VLLM_KERNELS)


def test_a_node_that_works_has_no_problems():
    assert gpus.problems(GOOD) == []


@pytest.mark.parametrize(
    "said, line",
    [
        (
            {"driver": "550.54"},
            "driver 550.54 is too old for torch 2.11.0+cu130 (CUDA 13.0): install driver >= 580, or",
        ),
        ({"driver": {"error": "no nvidia-smi"}}, "nvidia-smi gives no driver version (no nvidia-smi): install"),
        (
            {"cuda": {"torch": "2.11.0", "cuda": "13.0", "error": "unknown error"}},
            "CUDA does not start (unknown error): mend",
        ),
        ({"cuda": {"torch": "2.13.0+cpu", "cuda": None, "error": "not compiled"}}, "torch 2.13.0+cpu is built without"),
        ({"wanted": 8}, "torch sees 1 of 8 GPUs: look at nvidia-smi"),
        ({"devices": [{"name": "H20", "free": 0.5}]}, "GPU 0 (H20) has 50% of its memory free: end what holds it"),
        (
            {"devices": [{"error": "uncorrectable ECC error"}]},
            "GPU 0 fails in a product (uncorrectable ECC error): reset",
        ),
        (
            {"flash_attn": {"error": "No module named 'flash_attn'"}},
            "flash-attn cannot be used (No module named 'flash_attn'): make install EXTRA=gpu",
        ),
        (
            {"flash_attn": {"error": "undefined symbol: _ZN3c10"}},
            "flash-attn cannot be used (undefined symbol: _ZN3c10)",
        ),
        ({"shm": 64 * 2**20}, "/dev/shm is 0.1 GiB, 16 GiB are wanted: --shm-size=16g"),
        (
            {"alloc": "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"},
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        ),
        (
            {"error": "exit code -11: Segmentation fault"},
            "the GPU probe failed (exit code -11: Segmentation fault): run",
        ),
    ],
)
def test_what_is_broken_is_one_line_with_its_remedy(said, line):
    (wrong,) = gpus.problems({**GOOD, **said})
    assert wrong.startswith(line)


def test_cuda_12_runs_on_an_older_driver():
    assert (
        gpus.problems({**GOOD, "driver": "550.54", "cuda": {"torch": "2.11.0+cu129", "cuda": "12.9", "count": 1}}) == []
    )


@pytest.mark.engine
def test_a_machine_without_a_gpu_fails_for_real(tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 550.54\n")
    smi.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    said = gpus.ask(
        2, {"PATH": path, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "CUDA_VISIBLE_DEVICES": ""}
    )
    assert said["driver"] == "550.54" and said["cuda"]["error"] and said["shm"] > 0
    wrong = "\n".join(gpus.problems(said))
    assert "expandable_segments:True breaks vLLM" in wrong
    assert f"torch {said['cuda']['torch']}" in wrong or "CUDA does not start" in wrong
    assert "flash-attn cannot be used (No module named 'flash_attn')" in wrong


def test_a_child_that_dies_is_an_answer():
    said = gpus._child(["no number"], 60, {})
    assert said["error"].startswith("exit code 1: ValueError")


@pytest.mark.engine
def test_an_all_reduce_between_two_nodes_gives_its_speed():
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000})
    try:
        cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        ray.init(address=cluster.address, log_to_driver=False)
        wrong, line = gpus.look(0, {})
        assert wrong == [] and line.startswith("all-reduce between the nodes ") and line.endswith(" GB/s")
        (wrong,), line = gpus.look(0, {"GLOO_SOCKET_IFNAME": "none0"})
        assert "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME" in wrong and line == ""
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.engine
def test_gpus_are_held_inside_the_block_and_free_after():
    import ray

    def free():
        return ray.available_resources().get("GPU", 0)

    ray.init(num_gpus=8, num_cpus=1, include_dashboard=False, object_store_memory=100_000_000)
    try:
        with gpus.hold(8):
            assert free() == 0
            with (
                pytest.raises(StarError, match="SFT runs on 1 GPUs of this node, and other jobs hold"),
                gpus.hold(1, seconds=1),
            ):
                pass
        until = time.monotonic() + 120
        while free() != 8 and time.monotonic() < until:
            time.sleep(0.2)
        assert free() == 8
    finally:
        ray.shutdown()


@pytest.mark.engine
def test_none_are_asked_of_a_cluster_where_none_are_wanted():
    with gpus.hold(0, address="nowhere:1"):
        pass
