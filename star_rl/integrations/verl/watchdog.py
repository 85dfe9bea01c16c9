"""End a training whose nodes or processes are lost.

When a node dies in the middle of rollouts nothing raises: verl's trainer asks the queue again and again for rollouts
that nobody will finish (``ReplayBuffer.sample``), and a write to a lost storage unit waits for ever. So the trainer's
process checks them itself.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import ray
from ray._private import state

logger = logging.getLogger(__name__)

#: Seconds between two checks, and from a node's death to the end of a trainer that is stuck in something else.
INTERVAL, GRACE = 5.0, 120.0
#: Actors whose end verl does not notice: they hold or make rollouts, for the whole training.
_NEEDED = frozenset(("AgentLoopWorkerTQ", "SimpleStorageUnit", "TransferQueueController"))


class Watchdog:
    """Watch the nodes that host actors of this Ray job, and the actors whose loss would go unnoticed.

    Only what was seen alive can be lost: other nodes may come and go.
    """

    def __init__(self) -> None:
        self._homes: dict[str, str] = {}
        self._needed: dict[str, str] = {}
        self._next = 0.0

    def lost(self) -> tuple[str, bool]:
        """Return what is lost as a sentence (empty if nothing is), and whether it is a node."""
        job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        actors: dict[str, dict[str, Any]] = state.actors(job_id=job)
        for key, actor in actors.items():
            if actor["State"] == "ALIVE":
                self._homes[actor["Address"]["NodeID"]] = actor["Address"]["IPAddress"]
                if (name := actor["ActorClassName"].rpartition(".")[2]) in _NEEDED:
                    self._needed[key] = name
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if gone := sorted(address for node, address in self._homes.items() if node not in alive):
            return f"The node with address: {gone[0]} has been marked dead", True
        for key, name in self._needed.items():
            actor = actors.get(key, {})
            if actor.get("State") == "DEAD":
                place = actor["Address"]["IPAddress"]
                return f"{name} is gone, because its worker process has died\n ip: {place}", False
        return "", False

    def check(self) -> None:
        """Check, at most every :data:`INTERVAL` seconds.

        Raises:
            RuntimeError: a node or an actor is lost.
        """
        if time.monotonic() < self._next or not ray.is_initialized():
            return
        self._next = time.monotonic() + INTERVAL
        if gone := self.lost()[0]:
            raise RuntimeError(gone)


def start() -> None:
    """Start a thread that ends this process :data:`GRACE` seconds after a node died, if it has not ended by then."""
    threading.Thread(target=_run, name="star-rl watchdog", daemon=True).start()


def _run() -> None:
    watchdog = Watchdog()
    while True:
        time.sleep(INTERVAL)
        if not ray.is_initialized():
            continue
        try:
            gone, node = watchdog.lost()
        except Exception as error:  # Ray is shutting down, or its head is gone: others report that
            logger.debug("cannot check the nodes: %s", error)
            continue
        if node:
            time.sleep(GRACE)
            print(f"star-rl: {gone}, and the trainer still waits for it: ending the trainer", flush=True)
            os._exit(1)
