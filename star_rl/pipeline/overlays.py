"""What a chain's sections ``sft`` and ``grpo`` come to: ms-swift's layers and a GRPO recipe for verl.

Stages, ``plan``, ``submit`` and the check before a run all ask here, so that they speak of the same training.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import fingerprint, sha256, write_text
from star_rl.layers import recipe_path
from star_rl.own import MCP, absolute, code_of

#: Arguments of ms-swift for memory, speed and bookkeeping: what is learned is the same but for rounding.
SFT_KNOBS = (
    "ENV", "save_*", "logging_*", "report_to", "run_name", "disable_tqdm", "ddp_*", "dataset_num_proc", "lazy_tokenize",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "attn_impl", "padding_free", "use_liger_kernel", "use_logits_to_keep", "gradient_checkpointing*",
)  # fmt: skip
#: The same of a GRPO recipe, dotted, ``+`` left out. The number of GPUs is not listed: checkpoints depend on it.
GRPO_KNOBS = (
    "ray.*", "env.*", "verl.ray_kwargs.*", "*.gpu_memory_utilization", "*.max_num_seqs", "*.max_num_batched_tokens",
    "*offload", "*.offload_policy", "*.forward_prefetch", "*.ppo_max_token_len_per_gpu",
    "*.log_prob_max_token_len_per_gpu", "*.use_remove_padding", "*.enable_gradient_checkpointing",
    "*.use_fused_kernels", "*.use_torch_compile", "*.entropy_from_logits_with_chunking", "*.entropy_checkpointing",
    "*.rollout.tensor_model_parallel_size",
    "*.rollout.enforce_eager", "*.rollout.free_cache_engine", "*.rollout.enable_prefix_caching",
    "*.rollout.enable_chunked_prefill", "*.rollout.agent.num_workers", "*.checkpoint_engine.*",
    "verl.data.dataloader_num_workers", "verl.trainer.save_freq", "verl.trainer.max_*_ckpt_to_keep",
    "verl.trainer.logger", "verl.trainer.project_name", "verl.trainer.experiment_name", "verl.transfer_queue.*",
)  # fmt: skip


def named(recipe: str | Sequence[str]) -> list[str]:
    """``sft.recipe`` or ``grpo.recipe`` as a list: one overlay, or several of which each is laid over those before."""
    return [recipe] if isinstance(recipe, str) else list(recipe)


def sft_layers(section: Mapping[str, Any], seed: int | None = None) -> list[Path | Mapping[str, Any]]:
    """The layers of section ``sft`` as ms-swift's recipe takes them; overrides alone set another seed than the stage's.

    Raises:
        StarError: an overlay that does not exist.
    """
    seeds = {} if seed is None else {"seed": seed, "data_seed": seed}
    return [*(recipe_path(name) for name in named(section["recipe"])), seeds, section["overrides"]]


def sft_processes(section: Mapping[str, Any]) -> int:
    """Processes of SFT, one a GPU of the node it runs on."""
    from star_rl.integrations.swift.recipe import layered

    return int((layered(sft_layers(section)).get("ENV") or {}).get("NPROC_PER_NODE") or 1)


def _known_to(knobs: Sequence[str], name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, knob) for knob in knobs)


def _sft_deciding(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """ms-swift's arguments without knobs; of rows, how many a process takes a step, however they are cut."""
    rows = ("per_device_train_batch_size", "gradient_accumulation_steps")
    left = {name: value for name, value in arguments.items() if not _known_to(SFT_KNOBS, name)}
    if all(left.get(name) for name in rows):
        left["rows"] = left.pop(rows[0]) * left.pop(rows[1])
    return left


def _grpo_deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a GRPO recipe by their dotted names, without knobs."""
    from star_rl.integrations.verl.overrides import leaves

    return {name: value for name, value, _ in leaves(values) if value != {} and not _known_to(GRPO_KNOBS, name)}


def sft_decides(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of stage sft's configuration decides what is learned. Overlays and overrides: see :func:`sft_sources`."""
    return {**config, "sft": {"processes": sft_processes(config["sft"])}}


def grpo_decides(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of stage grpo's configuration decides what is learned; its overlay: see :func:`grpo_sources`."""
    section = config["grpo"]
    kept = {name: section[name] for name in ("reward", "steps", "keep", "patience")}
    return {**config, "grpo": {**kept, "overrides": _grpo_deciding(section["overrides"])}}


def sft_sources(config: Mapping[str, Any]) -> dict[str, str]:
    """Digest of what ``sft.recipe`` says today, bases and overrides included; comments and knobs do not count."""
    from star_rl.integrations.swift.recipe import layered

    return {"overlay": fingerprint(_sft_deciding(layered(sft_layers(config["sft"]))))}


def grpo_sources(config: Mapping[str, Any]) -> dict[str, str]:
    """Digests of what ``grpo.recipe`` says today, knobs left out, and of the reward's code."""
    from star_rl.integrations.verl.recipe import load_recipe

    section = config["grpo"]
    return {
        "overlay": fingerprint(_grpo_deciding(asdict(load_recipe(section["recipe"])))),
        "reward": fingerprint(reward_code(section["reward"])),
        **code_of(config),
    }


def reward_code(spec: str) -> dict[str, str]:
    """Digests of a reward's file and, where it lies in a package, of that package's modules it imports.

    Raises:
        StarError: there is no such file or module.
    """
    from star_rl.rewards.loading import place

    path, _ = place(spec)
    if not path.startswith("pkg://"):
        return {"file": sha256(Path(path))}
    package = path.removeprefix("pkg://").rpartition(".")[0]
    found: dict[str, str] = {}
    waiting = [path.removeprefix("pkg://")]
    while waiting:
        name = waiting.pop()
        file = _module_file(name)
        if name in found or file is None:
            continue
        found[name] = sha256(file)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                waiting += [node.module, *(f"{node.module}.{entry.name}" for entry in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [entry.name for entry in node.names]
        waiting = [entry for entry in waiting if entry.startswith(package)]
    if not found:
        raise StarError(f"reward={spec} names no module", "check its name, or install its package")
    return dict(sorted(found.items()))


def _module_file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def lengths(config: Mapping[str, Any]) -> dict[str, int]:
    """verl's two lengths as the chain's prompt and loop have them, in tokens; what the chain leaves open is left out.

    A full profile keeps to ``prompt.budget``; a compact one has no budget, so its overlay says how long it may get.
    """
    prompt = config["loop"]["prompt_tokens"] or (
        config["prompt"]["budget"] if config["prompt"]["profile"] == "full" else None
    )
    found = {"max_prompt_length": prompt, "max_response_length": config["loop"]["budget"].get("response_tokens")}
    return {name: value for name, value in found.items() if value is not None}


def grpo_recipe(config: Mapping[str, Any], seed: int | None = None) -> Any:
    """Resolve section ``grpo``: its overlay, then the chain's values, then its overrides.

    The chain's prompt, loop and tools go into it, so that GRPO's rollouts are those of sampling and evaluation.

    Args:
        config: sections ``prompt``, ``tools``, ``sft_set``, ``loop`` and ``grpo`` as plain data.
        seed: of the order of prompts and mini-batches and of the rollouts; overrides alone set another.

    Raises:
        StarError: no such overlay, an unknown key, or one of either that contradicts the chain.
    """
    from star_rl.integrations.verl.overrides import merge
    from star_rl.integrations.verl.recipe import load_recipe
    from star_rl.rewards.loading import place
    from star_rl.trajectory import LACKING

    section, tools = config["grpo"], config["tools"]
    own = load_recipe({}, section["overrides"])
    asked = own.verl.get("data", {})
    chain = lengths(config)
    for name, value in chain.items():
        given = asked.get(name, value)
        if given != value:
            option = "loop.budget.response_tokens" if name == "max_response_length" else "prompt.budget"
            raise StarError(
                f"grpo.overrides.verl.data.{name}={given}, but the chain's {option} is {value}",
                f"set {option} alone: verl's length follows it",
            )
    for said in (load_recipe(section["recipe"]), own):
        if said.reward not in (load_recipe({}).reward, section["reward"]):
            raise StarError(
                f"a GRPO overlay or override says reward={said.reward}, the chain grpo.reward={section['reward']}",
                "name a chain's reward in grpo.reward alone",
            )
    reward, function = place(section["reward"])
    steps = {"total_training_steps": section["steps"]} if section["steps"] else {}
    kept = {f"+{name}": section[name] for name in ("keep", "patience")}
    fixed = {"verl": {"trainer": {**steps, "v1": {"sampler": {"sampler_kwargs": kept}}}}}
    budget = {name: value for name, value in config["loop"]["budget"].items() if name != "response_tokens"}
    derived = {
        "reward": f"{reward}:{function}",
        "policy": {
            "lens": tools["lens"],
            "lens_top": tools["lens_top"],
            "show_tools": "tools" not in LACKING.get(config["sft_set"]["setting"], ()),
            "own": [absolute(name) for name in tools.get("own") or ()],
            "environment": absolute(config["loop"].get("environment") or ""),
            "budget": budget,
        },
        "verl": merge({"data": chain}, {} if seed is None else _grpo_seeds(seed)),
    }
    return load_recipe(section["recipe"], merge(derived, section["overrides"], fixed))


def _grpo_seeds(seed: int) -> dict[str, Any]:
    policy = {"actor": {"data_loader_seed": seed}, "rollout": {"seed": seed}}
    return {"data": {"seed": seed}, "actor_rollout_ref": policy}


def with_code_in(folder: Path, recipe: Any) -> Any:
    """A GRPO recipe whose reward, tools and environment every node of a joined cluster finds: a file's content goes
    into the run folder.

    The tree that was sent is unpacked in another place on each node, so a path into it holds on one alone.
    """
    from star_rl.rewards.loading import place

    if not recipe.ray.get("address"):
        return recipe

    def here(name: str, copy: str) -> str:
        path, _, function = name.rpartition(":")
        if not path.endswith(".py") or name.startswith(MCP):
            return name
        file = (folder / copy).resolve()
        write_text(file, Path(path).read_text(encoding="utf-8"))
        return f"{file}:{function}"

    policy = replace(
        recipe.policy,
        own=tuple(here(name, f"tool{number}.py") for number, name in enumerate(recipe.policy.own)),
        environment=here(recipe.policy.environment, "environment.py"),
    )
    return replace(recipe, reward=here(":".join(place(recipe.reward)), "reward.py"), policy=policy)
