"""A recipe from end to end: ``run``, ``plan``, and ``doctor`` before both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from star_rl.cli.base import AT_LEAST_1, Several, command
from star_rl.errors import StarError


@command(
    "run",
    "run a recipe, stage after stage",
    "run quickstart",
    "run quickstart source=movielens source.root=DIR name=ml-100k",
    "run quickstart --from grpo grpo.reward=tool_cost",
    "run quickstart --seeds 3 --pairs star:popularity",
    "run quickstart --options",
)
@click.argument("recipe", help="a recipe's file, or a name such as quickstart")
@click.argument("overrides", nargs=-1, metavar="[key=value]...", help="options over the recipe's")
@click.option("--out", metavar="DIR", help="folder of runs (short for out=)")
@click.option("--from", "start", metavar="STAGE", help="run this stage and all after it again")
@click.option("--until", metavar="STAGE", help="stop after this stage")
@click.option("--same-code", is_flag=True, help="take stages that other code made for done")
@click.option("--seeds", type=AT_LEAST_1, metavar="N", help="train with N seeds, from the recipe's on, and report all")
@click.option("--vary", type=click.Choice(["training", "all"]), default="training", help="what the seeds change")
@click.option("--pairs", cls=Several, metavar="A:B...", help="further methods to compare over the seeds")
@click.option("--stages", is_flag=True, help="list the stages and stop")
@click.option("--options", is_flag=True, help="print every option with its value and stop")
def run(
    recipe: str,
    overrides: Sequence[str],
    out: str | None,
    until: str | None,
    seeds: int | None,
    vary: Any,
    pairs: Sequence[str],
    stages: bool,
    options: bool,
    **which: Any,
) -> None:
    from star_rl.pipeline import chain, runner
    from star_rl.pipeline.check import check_machine, check_recipe
    from star_rl.pipeline.recipe import load
    from star_rl.pipeline.stage import first_of

    if stages:
        print("\n".join(stage.name for stage in chain.STAGES))
        return
    overrides = [*overrides, *([f"out={out}"] if out else [])]
    loaded = load(recipe, overrides)
    if options:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(asdict(loaded)))
        return

    def checked(one: Any, chosen: Sequence[Any] = chain.STAGES, last: str | None = None) -> None:
        check_recipe(one, until)
        check_machine(one, until)
        runner.run(one, chosen, until=last, **which)

    if seeds is None:
        checked(loaded, last=until)
        return
    if which["start"]:
        raise StarError(
            f"--from {which['start']} with --seeds would run every seed again after a kill",
            f"run one seed's folder again: name={loaded.name}-seedN train_seed=N --from {which['start']}",
        )
    from star_rl.evaluation.studies import seeds as study

    compared = study.pairs_of(pairs, loaded.evaluate.methods)
    wanted = chain.STAGES[: first_of(chain.STAGES, until) + 1] if until else chain.STAGES
    folders = study.run_seeds(recipe, overrides, seeds, vary, wanted, checked)
    if wanted[-1].name in ("evaluate", "report"):
        study.show(folders, Path(loaded.out) / f"{loaded.name}-seeds", compared)


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
