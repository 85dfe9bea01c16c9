"""GPUs of a process that Ray did not start are held in Ray's table while it runs."""

import contextlib
import time

import pytest

from star_rl.errors import StarError
from star_rl.launch import job, reserve
from star_rl.launch.preflight import Needs
from star_rl.pipeline.stage import Stage

pytestmark = pytest.mark.engine


def test_gpus_are_held_inside_the_block_and_free_after():
    import ray

    def free():
        return ray.available_resources().get("GPU", 0)

    ray.init(num_gpus=8, num_cpus=1, include_dashboard=False, object_store_memory=100_000_000)
    try:
        with reserve.gpus(8):
            assert free() == 0
            with (
                pytest.raises(StarError, match="SFT runs on 1 GPUs of this node, and other jobs hold"),
                reserve.gpus(1, seconds=1),
            ):
                pass
        until = time.monotonic() + 120
        while free() != 8 and time.monotonic() < until:
            time.sleep(0.2)
        assert free() == 8
    finally:
        ray.shutdown()


def test_none_are_asked_of_a_cluster_where_none_are_wanted():
    with reserve.gpus(0, address="nowhere:1"):
        pass


def test_a_job_holds_the_gpus_of_sft_while_it_trains(monkeypatch):
    told = []

    @contextlib.contextmanager
    def gpus(count):
        told.append(count)
        yield
        told.append("free")

    monkeypatch.setattr(reserve, "gpus", gpus)
    stages = (Stage("sft", lambda _: told.append("trains") or {"steps": 1}), Stage("sample", lambda _: {}))
    sft, sample = job.guarded(stages, Needs(driver_gpus=8))
    assert sft.body(None) == {"steps": 1} and told == [8, "trains", "free"]
    assert sample.body is stages[1].body
