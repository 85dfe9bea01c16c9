"""What a chain's sections ``sft`` and ``grpo`` come to: ms-swift's layers and a GRPO recipe for verl.

Stages, ``plan``, ``submit`` and the check before a run all ask here, so that they speak of the same training.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import fingerprint, sha256, write_text

ROOT = Path(__file__).resolve().parents[1]


def overlay(name: str) -> Path:
    """A recipe overlay, looked up from here and then from the project's root.

    Raises:
        StarError: there is no such file.
    """
    for path in (Path(name), ROOT / name):
        if path.is_file():
            return path
    folder = (ROOT / name).parent
    near = sorted(folder.glob("*.yaml")) or sorted((ROOT / "recipes").glob("*/*.yaml"))
    raise StarError(
        f"there is no recipe {name}", f"there are {', '.join(str(p).removeprefix(f'{ROOT}/') for p in near)}"
    )


def named(recipe: str | Sequence[str]) -> list[str]:
    """``sft.recipe`` as a list: one overlay, or several of which each is laid over those before."""
    return [recipe] if isinstance(recipe, str) else list(recipe)


def sft_layers(section: Mapping[str, Any]) -> list[Path | Mapping[str, Any]]:
    """The layers of section ``sft`` as ms-swift's recipe takes them.

    Raises:
        StarError: an overlay that does not exist.
    """
    return [*(overlay(name) for name in named(section["recipe"])), section["overrides"]]


def sft_processes(section: Mapping[str, Any]) -> int:
    """Processes of SFT, one a GPU of the node it runs on."""
    from star_rl.integrations.swift.recipe import layered

    return int((layered(sft_layers(section)).get("ENV") or {}).get("NPROC_PER_NODE") or 1)


def sft_sources(config: Mapping[str, Any]) -> dict[str, str]:
    """Digest of what ``sft.recipe`` says today, bases included; comments do not count."""
    from star_rl.integrations.swift.recipe import layered

    return {"overlay": fingerprint(layered(sft_layers(config["sft"])))}


def grpo_sources(config: Mapping[str, Any]) -> dict[str, str]:
    """Digests of what ``grpo.recipe`` says today, and of the reward's code."""
    from star_rl.integrations.verl.recipe import load_recipe

    section = config["grpo"]
    return {
        "overlay": fingerprint(asdict(load_recipe(overlay(section["recipe"])))),
        "reward": fingerprint(reward_code(section["reward"])),
    }


def reward_code(spec: str) -> dict[str, str]:
    """Digests of a reward's file and, where it lies in a package, of that package's modules it imports.

    Raises:
        StarError: there is no such file or module.
    """
    from rewards.loading import place

    path, _ = place(spec)
    if not path.startswith("pkg://"):
        return {"file": sha256(Path(path))}
    package = path.removeprefix("pkg://").partition(".")[0]
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
        waiting = [entry for entry in waiting if entry.partition(".")[0] == package]
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


def grpo_recipe(config: Mapping[str, Any]) -> Any:
    """Section ``grpo`` as a :class:`star_rl.integrations.verl.recipe.Recipe`: overlay, chain, overrides, in this order.

    The chain's prompt, loop and tools go into it, so that GRPO's rollouts are those of sampling and evaluation.

    Args:
        config: sections ``prompt``, ``tools``, ``sft_set``, ``loop`` and ``grpo`` as plain data.

    Raises:
        StarError: no such overlay, an unknown key, or one of either that contradicts the chain.
    """
    from launch.world import LACKING
    from rewards.loading import place
    from star_rl.integrations.verl.overrides import merge
    from star_rl.integrations.verl.recipe import load_recipe

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
    for said in (load_recipe(overlay(section["recipe"])), own):
        if said.reward not in (load_recipe({}).reward, section["reward"]):
            raise StarError(
                f"a GRPO overlay or override says reward={said.reward}, the chain grpo.reward={section['reward']}",
                "name a chain's reward in grpo.reward alone",
            )
    reward, function = place(section["reward"])
    steps = {"trainer": {"total_training_steps": section["steps"]}} if section["steps"] else {}
    budget = {name: value for name, value in config["loop"]["budget"].items() if name != "response_tokens"}
    derived = {
        "reward": f"{reward}:{function}",
        "policy": {
            "lens": tools["lens"],
            "lens_top": tools["lens_top"],
            "show_tools": LACKING.get(config["sft_set"]["setting"]) != "tools",
            "budget": budget,
        },
        "verl": {"data": chain},
    }
    return load_recipe(overlay(section["recipe"]), merge(derived, section["overrides"], {"verl": steps}))


def with_reward_in(folder: Path, recipe: Any) -> Any:
    """A GRPO recipe whose reward every node of a joined cluster finds: a file's content goes into the run folder.

    The tree that was sent is unpacked in another place on each node, so a path into it holds on one alone.
    """
    from rewards.loading import place

    path, function = place(recipe.reward)
    if path.startswith("pkg://") or not recipe.ray.get("address"):
        return recipe
    copy = (folder / "reward.py").resolve()
    write_text(copy, Path(path).read_text(encoding="utf-8"))
    return replace(recipe, reward=f"{copy}:{function}")
