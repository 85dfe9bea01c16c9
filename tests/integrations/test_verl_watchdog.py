"""A node or a process that goes away while rollouts are awaited is noticed, and named as the launcher reads it."""

import time

import pytest

pytestmark = pytest.mark.engine


@pytest.fixture
def cluster(monkeypatch, tmp_path_factory):
    """A Ray cluster of two nodes, this process its driver."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1, resources={"second": 2})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def awaited(look):
    """What ``look`` says within a minute that is not empty."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if said := look():
            return said
        time.sleep(0.2)
    raise AssertionError("nothing was noticed")


def test_a_lost_worker_and_then_a_lost_node_are_told(cluster, monkeypatch):
    import ray

    from star_rl.integrations.verl import watchdog
    from star_rl.integrations.verl.grpo import _death

    class AgentLoopWorkerTQ:
        """Stands for verl's worker of that name."""

        def node(self):
            return ray.get_runtime_context().get_node_id()

    worker = ray.remote(AgentLoopWorkerTQ).options(num_cpus=0, resources={"second": 1}).remote()
    other = ray.remote(AgentLoopWorkerTQ).options(num_cpus=0, resources={"second": 1}).remote()
    second = ray.get(worker.node.remote())
    assert second == ray.get(other.node.remote())
    watched, spare = watchdog.Watchdog(), cluster.add_node(num_cpus=1)
    assert watched.lost() == ("", False)
    cluster.remove_node(spare)  # nothing of this job was there
    assert watched.lost() == ("", False)

    ray.kill(worker)
    said, node = awaited(lambda: watched.lost() if watched.lost()[0] else None)
    assert "AgentLoopWorkerTQ is gone" in said and not node
    assert _death(said.splitlines()).startswith(" because a worker process on ")

    cluster.remove_node(next(each for each in cluster.list_all_nodes() if each.node_id == second))
    said, node = awaited(lambda: watched.lost() if watched.lost()[1] else None)
    assert node and _death(said.splitlines()) == " because a node died"
    monkeypatch.setattr(watchdog, "INTERVAL", 0.0)
    with pytest.raises(RuntimeError, match="has been marked dead"):
        watched.check()


def test_without_ray_there_is_nothing_to_look_for():
    import ray

    from star_rl.integrations.verl.watchdog import Watchdog

    assert not ray.is_initialized()
    Watchdog().check()
    assert not ray.is_initialized()
