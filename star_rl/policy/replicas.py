"""One engine, several replicas: Ray actors with a vLLM engine each, behind the same ``generate``.

A replica gets all turns of a rollout, and the rollouts of one prompt while it is not busier than the others: they share
a prefix in its cache. If a replica dies, its turns go to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import zlib
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.policy.engines import CPU_VARIABLES, EngineOptions, TransformersEngine, VllmEngine, has_accelerator
from star_rl.policy.loop import Engine, Generation

ROOT = Path(__file__).resolve().parents[2]
#: How many more rollouts than the idlest a prompt's own replica may have before another takes the next.
SLACK = 8
_REMEMBERED = 1 << 17
#: Seconds between two log lines while replicas are not ready.
LOG_EVERY = 60.0
_log = logging.getLogger(__name__)


def count(options: EngineOptions) -> int:
    """Return the number of replicas: as set, else as fit the GPUs (the cluster's in a job, else this machine's)."""
    if options.replicas is not None:
        return options.replicas
    if not has_accelerator():
        return 1
    if os.environ.get("RAY_ADDRESS"):
        with _ray() as ray:
            gpus = int(ray.cluster_resources().get("GPU", 0))
    else:
        import torch

        gpus = torch.cuda.device_count()
    return max(1, gpus // _gpus_each(options))


def _gpus_each(options: EngineOptions) -> int:
    extra = dict(options.extra)
    return int(extra.get("tensor_parallel_size", 1)) * int(extra.get("pipeline_parallel_size", 1))


@contextlib.contextmanager
def _ray() -> Any:
    """Join or start Ray for the block; a job's process joins the cluster that runs it (``RAY_ADDRESS``)."""
    import ray

    joined = not ray.is_initialized()
    if joined:
        search = os.pathsep.join(entry for entry in (str(ROOT), os.environ.get("PYTHONPATH", "")) if entry)
        own: dict[str, Any] = {}
        if not os.environ.get("RAY_ADDRESS"):  # a small store: only token ids go through Ray's objects
            own = {"address": "local", "include_dashboard": False, "object_store_memory": 200_000_000}
        environment = {"env_vars": {"PYTHONPATH": search, "VLLM_LOGGING_LEVEL": "WARNING"}}
        ray.init(logging_level="ERROR", log_to_driver=False, runtime_env=environment, **own)
    try:
        yield ray
    finally:
        if joined:
            ray.shutdown()


class Server:
    """The class of the actors: one engine each."""

    def __init__(self, model: str, options: EngineOptions) -> None:
        self._engine = VllmEngine(model, options)

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str
    ) -> tuple[Any, ...]:
        return tuple(await self._engine.generate(prompt_ids, sampling_params, request_id))

    async def ready(self) -> int:
        """Return the engine's window in tokens, once it is ready."""
        return self._engine.window

    async def close(self) -> None:
        self._engine.close()


class Replicas:
    """Routes turns to replicas.

    Args:
        servers: number -> a function that continues token ids there.
        lost: whether an exception of that function means that the replica is gone.
        window: tokens of prompt and response that each holds, 0 if unknown.
    """

    def __init__(
        self, servers: dict[int, Callable[..., Any]], lost: Callable[[BaseException], bool], window: int = 0
    ) -> None:
        self._servers, self._lost, self.window = dict(servers), lost, window
        self._load = dict.fromkeys(servers, 0)
        self._homes: OrderedDict[str, int] = OrderedDict()

    @property
    def alive(self) -> int:
        return len(self._servers)

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Generation:
        """Continue ``prompt_ids`` on a live replica.

        Raises:
            StarError: no replica is left.
        """
        while self._servers:
            number = self._choose(prompt_ids, request_id)
            self._load[number] += 1
            try:
                return Generation(*await self._servers[number](prompt_ids, sampling_params, request_id))
            except Exception as error:
                if not self._lost(error):
                    raise
                if self._servers.pop(number, None) is not None:
                    _log.warning("replica %d is gone, %d left: %s", number, self.alive, str(error).split("\n")[0])
            finally:
                self._load[number] -= 1
        raise StarError("no replica of the engine is left", "see Ray's logs, then run the same command again to resume")

    def _choose(self, prompt_ids: list[int], request_id: str) -> int:
        number = self._homes.get(request_id)
        if number not in self._servers:
            alive = sorted(self._servers)
            number = alive[zlib.crc32(array("q", prompt_ids).tobytes()) % len(alive)]
            idle = min(alive, key=lambda name: self._load[name])
            if self._load[number] > self._load[idle] + SLACK:
                number = idle
            self._homes[request_id] = number
            if len(self._homes) > _REMEMBERED:
                self._homes.popitem(last=False)
        return number


def is_lost(error: BaseException) -> bool:
    """Return whether a replica is dead: its actor, or the engine of that actor, which then fails at once and as the
    idlest replica would get every next rollout."""
    from ray import exceptions as ray

    if isinstance(error, ray.RayTaskError):
        from vllm.v1.engine.exceptions import EngineDeadError

        return isinstance(error.cause, EngineDeadError)
    return isinstance(error, (ray.ActorDiedError, ray.ActorUnavailableError, ray.NodeDiedError))


@contextlib.asynccontextmanager
async def open_replicas(model: str | Path, options: EngineOptions, number: int) -> AsyncIterator[Engine]:
    """Start ``number`` replicas, each with its own GPUs if there are any; they end with the block. Replica k has the
    seed ``options.seed + k``, so that equal prompts give different samples.

    Raises:
        StarError: there are too few GPUs, or a replica does not start.
    """
    with _ray() as ray:
        gpus = _gpus_each(options) if has_accelerator() else 0
        have = int(ray.cluster_resources().get("GPU", 0))
        if gpus * number > have:
            raise StarError(
                f"{number} replicas of {gpus} GPU(s) each do not fit {have} GPUs",
                "set engine.options.replicas lower, or leave it out",
            )
        variables = {} if gpus else {**CPU_VARIABLES, "OMP_NUM_THREADS": str(options.threads or 1)}
        actor = ray.remote(Server).options(
            num_cpus=0, num_gpus=gpus, max_concurrency=max(1000, 2 * options.max_num_seqs),
            runtime_env={"env_vars": variables},
        )  # fmt: skip
        servers = [
            actor.remote(str(Path(model).resolve()), replace(options, seed=options.seed + k)) for k in range(number)
        ]
        try:
            try:
                windows = await all_ready([server.ready.remote() for server in servers], ray.available_resources)
            except ray.exceptions.RayError as error:
                cause = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                raise StarError(f"a replica of {model} does not start: {cause}", "see Ray's logs") from error
            yield Replicas({k: server.generate.remote for k, server in enumerate(servers)}, is_lost, min(windows))
        finally:
            for server in servers:
                with contextlib.suppress(ray.exceptions.RayError, asyncio.TimeoutError):
                    await asyncio.wait_for(server.close.remote(), 20)
                ray.kill(server)


async def all_ready(replies: Sequence[Awaitable[int]], available: Callable[[], Mapping[str, float]]) -> list[int]:
    """Wait until every replica is ready and return the replies; log once a minute how many still wait for GPUs, with
    Ray's ``available`` resources."""
    tasks = [asyncio.ensure_future(reply) for reply in replies]
    pending: set[Any] = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, timeout=LOG_EVERY, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            if pending:
                free = available().get("GPU", 0)
                _log.warning("%d of %d replicas are not ready; GPUs free: %g", len(pending), len(tasks), free)
    finally:
        for task in pending:
            task.cancel()
    return [task.result() for task in tasks]


@contextlib.asynccontextmanager
async def open_engine(model: str | Path, options: EngineOptions | None = None) -> AsyncIterator[Engine]:
    """Open an engine on a Hugging Face folder; it closes with the block.

    Raises:
        StarError: there is no model at the path, or the engine is not installed.
    """
    options = options or EngineOptions()
    if not (Path(model) / "config.json").is_file():
        raise StarError(f"there is no model at {model}", "give a Hugging Face model folder, one with a config.json")
    vllm = importlib.util.find_spec("vllm") is not None
    if options.kind == "vllm" and not vllm:
        raise StarError("vllm is not installed", "install the extra `cpu` or `gpu`, or set the engine to transformers")
    vllm = vllm and options.kind != "transformers"
    if vllm and (number := count(options)) > 1:
        async with open_replicas(model, options, number) as several:
            yield several
        return
    if not vllm and (options.replicas or 1) > 1:
        raise StarError(f"{options.replicas} replicas of transformers", "replicas are vLLM's: leave replicas out")
    engine = VllmEngine(model, options) if vllm else TransformersEngine(model, options)
    try:
        yield engine
    finally:
        engine.close()
