"""Whether what a training runs on is still there.

When a node goes away in the middle of rollouts nothing raises: verl's trainer asks the queue again and again for
rollouts that nobody will finish (``ReplayBuffer.sample``), and a write to a storage unit that is gone waits for ever.
So the trainer's process looks for itself.
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

#: Seconds between two looks, and from a node's death to the end of a trainer that is stuck in something else.
INTERVAL, GRACE = 5.0, 120.0
#: Processes whose end verl does not notice: they hold or make rollouts, and are there for the whole training.
_NEEDED = frozenset(("AgentLoopWorkerTQ", "SimpleStorageUnit", "TransferQueueController"))


class Presence:
    """The nodes that have processes of this Ray job, and the processes whose loss would go unnoticed.

    Only what was seen alive can be lost: nodes of others come and go as they like.
    """

    def __init__(self) -> None:
        self._homes: dict[str, str] = {}
        self._needed: dict[str, str] = {}
        self._next = 0.0

    def lost(self) -> tuple[str, bool]:
        """What is gone, in a sentence (empty where all is there), and whether it is a node."""
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
                return (
                    f"{name} is gone, because its worker process has died\n ip: {actor['Address']['IPAddress']}",
                    False,
                )
        return "", False

    def check(self) -> None:
        """Look, at most every :data:`INTERVAL`.

        Raises:
            RuntimeError: something is gone.
        """
        if time.monotonic() < self._next or not ray.is_initialized():
            return
        self._next = time.monotonic() + INTERVAL
        if gone := self.lost()[0]:
            raise RuntimeError(gone)

    def watch(self) -> None:
        """In a thread: end this process where a node is gone and it has not ended by itself after :data:`GRACE`."""
        threading.Thread(target=self._watch, name="star-rl presence", daemon=True).start()

    def _watch(self) -> None:
        other = Presence()
        while True:
            time.sleep(INTERVAL)
            if not ray.is_initialized():
                continue
            try:
                gone, node = other.lost()
            except Exception as error:  # Ray is shutting down, or its head is gone: others say so
                logger.debug("cannot look for the nodes: %s", error)
                continue
            if node:
                time.sleep(GRACE)
                print(f"star-rl: {gone}, and the trainer waits for it: it is ended", flush=True)
                os._exit(1)
