"""From a recipe's file to its plans: a whole chain, an overlay of ms-swift, or one of verl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launch.plan.grpo import plan_grpo
from launch.plan.model import GIB, Plan
from launch.plan.sft import plan_sft
from launch.plan.shapes import shape_of
from star_rl.errors import StarError

#: GiB of the paper's GPU (H20, 96 GB), of which the driver leaves this much.
DEFAULT_MEMORY = 95.0


def plan_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    gpus: int | None = None,
    memory: float | None = None,
    model: str | None = None,
) -> list[Plan]:
    """Plans of the training stages that a recipe has.

    Args:
        path: a chain recipe, or an overlay of recipes/sft or recipes/grpo.
        overrides: ``key=value`` over it, with the keys of the file.
        gpus: GPUs in all, None for what the recipe says; nodes of eight at most.
        memory: GiB of one GPU.
        model: folder or name, where the recipe names none or another is meant.

    Raises:
        StarError: no such recipe, a model of unknown shape, or a recipe that verl refuses.
    """
    import yaml

    from launch.check import hold_sft_keys
    from launch.commands import values

    if gpus is not None and gpus < 1:
        raise StarError(f"--gpus {gpus} is no number of GPUs", "give 1 or more")
    if memory is not None and memory <= 0:
        raise StarError(f"--memory {memory:g} is no size", "give the GiB of one GPU")
    size = (memory or DEFAULT_MEMORY) * GIB
    file = Path(path)
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except yaml.YAMLError as error:
        raise StarError(f"{file} is not valid YAML ({' '.join(str(error).split())[:120]})", "mend the file") from error
    tree = tree if isinstance(tree, dict) else {}
    if file.parent.name == "grpo" or "verl" in tree:
        from star_rl.integrations.verl.recipe import load_recipe

        return [_grpo(load_recipe(file, values(overrides)), model or "Qwen/Qwen3-8B", gpus, size)]
    if file.parent.name == "sft" or "per_device_train_batch_size" in tree:
        changed = values(overrides)
        hold_sft_keys(changed, file.name)
        return [_sft([file, changed], model, gpus, size)]
    return _chain(file, overrides, gpus, size, model)


def _chain(path: Path, overrides: Sequence[str], gpus: int | None, size: float, model: str | None) -> list[Plan]:
    from launch.check import check_recipe
    from launch.overlays import grpo_recipe, sft_layers
    from launch.recipe import load

    recipe = load(path, overrides)
    model = model or recipe.student.path
    if model is None:
        raise StarError(
            f"{path} makes a tiny student of its own, which fits any machine",
            "plan a recipe with student.path, or give --model",
        )
    check_recipe(recipe, planned=True, here=False)
    return [
        _sft(sft_layers(asdict(recipe.sft)), model, gpus, size),
        _grpo(grpo_recipe(asdict(recipe)), model, gpus, size),
    ]


def _sft(layers: list[Any], model: str | None, gpus: int | None, size: float) -> Plan:
    from star_rl.integrations.swift.recipe import compose

    # a model of the cluster's is planned by its name: its folder need not be here
    config = compose(layers, data=Path("sft.parquet"), out=Path("out"), model="planned" if model else None)
    return plan_sft(
        config, shape_of(model or config["model"]), gpus or int(config["ENV"].get("NPROC_PER_NODE", 1)), size
    )


def _grpo(recipe: Any, model: str, gpus: int | None, size: float) -> Plan:
    from star_rl.integrations.verl.overrides import overrides_of
    from star_rl.integrations.verl.recipe import Paths, compose, verl_tree

    folder = Path("plan")
    paths = Paths(folder, folder / "model", folder / "train.parquet", folder / "store")
    config = compose(overrides_of(verl_tree(recipe, paths, "plan")))
    nodes, each = int(config.trainer.nnodes), int(config.trainer.n_gpus_per_node)
    if gpus is not None:
        each = min(8, gpus)
        nodes = gpus // each
        if nodes * each != gpus:
            raise StarError(f"--gpus {gpus} are no whole nodes of {each}", "give a multiple of 8, or up to 8")
    return plan_grpo(config, shape_of(model), nodes, each, size)
