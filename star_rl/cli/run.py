"""A recipe from end to end: ``run``, ``plan``, and ``doctor`` before both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from star_rl.cli.base import command


@command(
    "run",
    "run a recipe, stage after stage",
    "run quickstart",
    "run quickstart source=movielens source.root=DIR name=ml-100k",
    "run quickstart --from grpo grpo.reward=tool_cost",
    "run quickstart --options",
)
@click.argument("recipe", help="a recipe's file, or a name such as quickstart")
@click.argument("overrides", nargs=-1, metavar="[key=value]...", help="options over the recipe's")
@click.option("--out", metavar="DIR", help="folder of runs (short for out=)")
@click.option("--from", "start", metavar="STAGE", help="run this stage and all after it again")
@click.option("--until", metavar="STAGE", help="stop after this stage")
@click.option("--same-code", is_flag=True, help="take stages that other code made for done")
@click.option("--stages", is_flag=True, help="list the stages and stop")
@click.option("--options", is_flag=True, help="print every option with its value and stop")
def run(
    recipe: str,
    overrides: Sequence[str],
    out: str | None,
    until: str | None,
    stages: bool,
    options: bool,
    **which: Any,
) -> None:
    from star_rl.pipeline import chain, runner
    from star_rl.pipeline.check import check_machine, check_recipe
    from star_rl.pipeline.recipe import load

    if stages:
        print("\n".join(stage.name for stage in chain.STAGES))
        return
    loaded = load(recipe, [*overrides, *([f"out={out}"] if out else [])])
    if options:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(asdict(loaded)))
        return
    check_recipe(loaded, until)
    check_machine(loaded, until)
    runner.run(loaded, chain.STAGES, until=until, **which)


@command("doctor", "check versions, engines, the plug-in and the machine")
@click.option("--extra", type=click.Choice(["cpu", "gpu"]), help="which pins to hold to (default: what is installed)")
def doctor(extra: str | None) -> int:
    from star_rl.cli import doctor as checks

    return checks.run(extra)


@command(
    "plan",
    "memory of each GPU and time that a recipe needs; exit code 1 when it overflows",
    "plan amazon",
    "plan grpo/gpu8 --memory 79 --model Qwen/Qwen3-8B",
    "plan sft/table4 --gpus 4",
)
@click.argument("recipe", help="a recipe or an overlay: its file, or a name such as amazon or grpo/table5")
@click.argument("overrides", nargs=-1, metavar="[key=value]...", help="options over the file's, by its keys")
@click.option("--gpus", type=int, metavar="N", help="GPUs in all (default: the recipe's)")
@click.option("--memory", type=float, metavar="GIB", help="of one GPU (default: 95 for H20, 79 for H100 and A100)")
@click.option("--model", help="folder or Qwen3 name (default: the recipe's)")
@click.option("--gpu", type=click.Choice(["H20", "H100", "A100"]), default="H20", help="for times (default: H20)")
@click.option("--network", default=100.0, metavar="GBPS", help="GB/s of a node to others (100)")
@click.option("--rows", default=8646, metavar="N", help="rows of SFT (8646)")
@click.option("--row-tokens", default=9000, metavar="N", help="mean tokens of a row of SFT (9000)")
@click.option("--response-tokens", default=3500, metavar="N", help="mean of a rollout (3500)")
def plan(
    recipe: str, overrides: Sequence[str], gpus: int | None, memory: float | None, model: str | None, **assumed: Any
) -> int:
    from star_rl.plan import Assumed, plan_recipe

    plans = plan_recipe(recipe, overrides, gpus=gpus, memory=memory, model=model, assumed=Assumed(**assumed))
    print("\n\n".join(one.text() for one in plans))
    return 1 if any(one.problems for one in plans) else 0
