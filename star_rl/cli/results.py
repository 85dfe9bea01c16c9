"""What training left behind: ``sample``, ``curves``, ``rescore``, ``export``; and ``reward check`` before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from star_rl.cli.base import PARTS, LazyGroup, Several, command
from star_rl.errors import StarError


@command(
    "sample",
    "rollouts of a checkpoint over tasks of a run",
    "sample runs/quickstart --stage sft --part valid --tasks 50 --samples 8 --out sft.jsonl",
    "sample runs/quickstart --model exported --part test --out test.jsonl",
)
@click.argument("run", help="folder of a run")
@click.option("--stage", type=click.Choice(["sft", "grpo"]), default="grpo", help="whose checkpoint")
@click.option("--model", help="a Hugging Face folder instead")
@click.option("--part", type=click.Choice(PARTS), default="test")
@click.option("--tasks", "first", type=int, metavar="N", help="the first N only")
@click.option("--samples", default=1, help="rollouts a task")
@click.option("--temperature", default=0.7)
@click.option("--top-p", default=0.95)
@click.option("--out", help="JSON lines (default: STAGE-PART.jsonl); the same command goes on where it was")
def sample(
    run: str, stage: str, model: str | None, part: str, first: int | None, out: str | None, **sampling: Any
) -> None:
    from star_rl.pipeline.recipe import recipe_of
    from star_rl.pipeline.stage import Context
    from star_rl.progress import progress_line
    from star_rl.run import Run
    from star_rl.training.sample import rates, rollouts, words

    folder = Path(run)
    recipe = recipe_of(folder)
    world = Run(folder, asdict(recipe))
    _ = world.store  # a store of another world is refused before the engine starts
    checkpoint = Path(model) if model else folder / stage / "final"
    tasks = world.tasks(part)[:first]
    if not tasks:
        raise StarError(f"{folder} has no tasks of part {part}", "one of train, valid, test")
    file = Path(out or f"{stage}-{part}.jsonl")
    with progress_line("sample") as line:
        context = Context(file.parent, world.config, recipe.seed, {}, folder, line)
        rollouts(context, world, checkpoint, tasks, file, **sampling)
    found = rates(file, tasks, world.prompt.top)
    print(f"{file}: {found['rollouts']:,} rollouts, {words(found)}")


@command(
    "curves",
    "training curves of one run, or of several over each other, as a picture",
    "curves runs/quickstart --out curves.png",
    "curves runs/a runs/b --out both.svg",
)
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FILE")
def curves(runs: Sequence[str], out: str) -> None:
    from star_rl.report.curve_charts import plot

    print(plot(runs, out))


reward = LazyGroup("reward", {"check": __name__}, help="check a reward of your own")


@command(
    "check",
    "try a reward on three canned responses",
    "reward check star",
    "reward check my_reward.py",
    "reward check pkg://my_package.reward:score",
)
@click.argument("spec", help="a name, a .py file or pkg://module, with :function after it where needed")
@click.option("--set", "pairs", cls=Several, metavar="key=value...", help="keyword arguments of the reward")
def check(spec: str, pairs: Sequence[str]) -> None:
    from star_rl.layers import overrides
    from star_rl.rewards import loading

    keys = loading.check(loading.load(spec), f"reward {spec}", **overrides(pairs))
    print(f"{spec}: {len(keys)} keys ({', '.join(keys)}), finite on three canned responses")


@command(
    "rescore",
    "score the rollouts of a run's GRPO with another reward",
    "rescore runs/quickstart --reward gated",
    "rescore runs/quickstart --reward tool_cost --set cost=0.1",
    "rescore runs/quickstart --reward my_reward.py:score --top 20",
)
@click.argument("run", help="folder of a run")
@click.option("--reward", "spec", required=True, help="a name, a .py file or pkg://module, with :function where needed")
@click.option("--set", "pairs", cls=Several, metavar="key=value...", help="keyword arguments of the reward")
@click.option("--top", default=10, help="rollouts that are listed, those that move most")
def rescore(run: str, spec: str, pairs: Sequence[str], top: int) -> None:
    from functools import partial

    from star_rl.layers import overrides
    from star_rl.pipeline.recipe import recipe_of
    from star_rl.report.rescore import rescore as score
    from star_rl.report.rescore import table
    from star_rl.rewards import loading

    trained, options, reward = recipe_of(Path(run)).grpo.reward, overrides(pairs), loading.load(spec)
    loading.check(reward, f"reward {spec}", **options)
    print(table(score(Path(run), partial(reward, **options)), f"{trained} (trained)", spec, top))


@command(
    "export",
    "a trained student as a Hugging Face folder with a model card",
    "export runs/quickstart --out student",
    "export runs/quickstart --stage sft --out sft",
)
@click.argument("run", help="folder of a run")
@click.option("--stage", type=click.Choice(["grpo", "sft"]), default="grpo")
@click.option("--out", required=True, help="folder to make")
def export(run: str, stage: str, out: str) -> None:
    from star_rl.training.export import export as write

    folder = write(run, out, stage)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:,.1f} MB; vllm serve {folder}")
