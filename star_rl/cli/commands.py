"""The bodies of the sub-commands. Each takes the parsed arguments and returns the exit code."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_rl.errors import StarError
from star_rl.layers import overrides
from star_rl.progress import progress_line

if TYPE_CHECKING:
    pass


def run(arguments: Namespace) -> int:
    """``star-rl run``."""
    from star_rl.pipeline import chain, recipe, runner
    from star_rl.pipeline.check import check_machine, check_recipe

    if arguments.stages:
        print("\n".join(stage.name for stage in chain.STAGES))
        return 0
    loaded = recipe.load(arguments.recipe, arguments.overrides)
    if arguments.options:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(asdict(loaded)))
        return 0
    check_recipe(loaded, arguments.until)
    check_machine(loaded, arguments.until)
    runner.run(loaded, chain.STAGES, arguments.start, arguments.until, arguments.same_code)
    return 0


def doctor(arguments: Namespace) -> int:
    """``star-rl doctor``."""
    from star_rl.cli import doctor as checks

    return checks.run(arguments.extra)


def tables(arguments: Namespace) -> int:
    """``star-rl tables``."""
    from star_rl.sources import write_tables

    with progress_line(arguments.source) as line:
        manifest = write_tables(
            arguments.source,
            arguments.root,
            arguments.out,
            overrides(arguments.set),
            line,
        )
    for name, count in manifest["kept"].items():
        dropped = ", ".join(
            f"{reason} {number:,}" for reason, number in manifest["dropped"].get(name, {}).items() if number
        )
        print(f"{name:<13} {count:>12,} kept" + (f", dropped: {dropped}" if dropped else ""))
    print(f"fingerprint   {manifest['fingerprint']}")
    return 0


def evidence_verify(arguments: Namespace) -> int:
    """``star-rl evidence verify``."""
    from star_rl.evidence import commands

    print(commands.verify(arguments.store))
    return 0


def evidence_inspect(arguments: Namespace) -> int:
    """``star-rl evidence inspect``."""
    from star_rl.evidence import commands

    print(commands.inspect(arguments.store, arguments.tool, arguments.key, arguments.most))
    return 0


def evidence_build(arguments: Namespace) -> int:
    """``star-rl evidence build``."""
    from star_rl.chat import ChatOptions
    from star_rl.evidence import commands

    chat = None
    if arguments.endpoint:
        chat = ChatOptions(
            tuple(arguments.endpoint),
            arguments.model,
            cache=arguments.cache or "",
            key_variable=arguments.key,
            price_prompt=arguments.prices[0],
            price_completion=arguments.prices[1],
        )
    with progress_line("evidence") as line:
        said = commands.build(
            arguments.store,
            tables=arguments.tables,
            visible=arguments.visible,
            scenario=arguments.scenario,
            item_neighbours=arguments.items,
            user_neighbours=arguments.users,
            tasks=arguments.tasks,
            source=arguments.source,
            size=arguments.size,
            budget=arguments.budget,
            chat=chat,
            dry_run=arguments.dry_run,
            shards=arguments.shards,
            workers=arguments.workers,
            progress=lambda done, total: line(done, total, "keys"),
        )
    print(said)
    return 0


def curves(arguments: Namespace) -> int:
    """``star-rl curves``."""
    from star_rl.report.curve_charts import plot

    print(plot(arguments.runs, arguments.out))
    return 0


def reward_check(arguments: Namespace) -> int:
    """``star-rl reward check``."""
    from rewards import loading

    keys = loading.check(loading.load(arguments.spec), f"reward {arguments.spec}", **overrides(arguments.set))
    print(f"{arguments.spec}: {len(keys)} keys ({', '.join(keys)}), finite on three canned responses")
    return 0


def plan(arguments: Namespace) -> int:
    """``star-rl plan``; 1 when something overflows."""
    from star_rl.plan import Assumed, plan_recipe

    assumed = Assumed(arguments.gpu, arguments.network, arguments.rows, arguments.row_tokens, arguments.response_tokens)
    plans = plan_recipe(
        arguments.recipe,
        arguments.overrides,
        gpus=arguments.gpus,
        memory=arguments.memory,
        model=arguments.model,
        assumed=assumed,
    )
    print("\n\n".join(plan.text() for plan in plans))
    return 1 if any(plan.problems for plan in plans) else 0


def export(arguments: Namespace) -> int:
    """``star-rl export``."""
    from star_rl.training.export import export as write

    folder = write(arguments.run, arguments.out, arguments.stage)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:,.1f} MB; vllm serve {folder}")
    return 0


def sample(arguments: Namespace) -> int:
    """``star-rl sample``: rollouts of a checkpoint over tasks of a run, and how often they hit."""
    from star_rl.pipeline.recipe import recipe_of
    from star_rl.pipeline.stage import Context
    from star_rl.run import Run
    from star_rl.training.sample import rollouts

    folder = Path(arguments.run)
    recipe = recipe_of(folder)
    config = asdict(recipe)
    world = Run(folder, config)
    _ = world.store  # a store of another world is refused before the engine starts
    model = Path(arguments.model) if arguments.model else folder / arguments.stage / "final"
    tasks = world.tasks(arguments.part)[: arguments.tasks]
    if not tasks:
        raise StarError(f"{folder} has no tasks of part {arguments.part}", "one of train, valid, test")
    out = Path(arguments.out or f"{arguments.stage}-{arguments.part}.jsonl")
    with progress_line("sample") as line:
        rollouts(
            Context(out.parent, config, recipe.seed, {}, folder, line),
            world,
            model,
            tasks,
            out,
            samples=arguments.samples,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
        )
    print(f"{out}: {_hits(out, {task.task_id: task.ground_truth for task in tasks})}")
    return 0


def _hits(path: Path, truths: dict[str, str]) -> str:
    from star_rl.files import read_jsonl
    from star_rl.trajectory import parse, ranking

    count, hits = 0, {1: 0, 3: 0, 5: 0}
    for line in read_jsonl(path):
        count += 1
        ranked = ranking(parse(line["model_text"])) or []
        for cut in hits:
            hits[cut] += truths[line["task_id"]] in ranked[:cut]
    shares = ", ".join(f"HR@{cut} {100 * number / max(1, count):.1f} %" for cut, number in hits.items())
    return f"{count:,} rollouts, {shares}"


# ------------------------------------------------------------------------------------------------------- on a cluster


def _client(arguments: Namespace) -> Any:
    from launch.submit import connect

    return connect(arguments.address or os.environ.get("RAY_API_SERVER_ADDRESS", ""))


def submit(arguments: Namespace) -> int:
    """``star-rl submit``."""
    from launch import submit as sending
    from star_rl.pipeline.recipe import load

    held, overrides = sending.options(arguments)
    recipe = load(arguments.recipe, overrides)
    client = _client(arguments)
    sent = sending.submit(
        recipe,
        client,
        held,
        start=arguments.start,
        until=arguments.until,
        extra=arguments.extra,
        python=arguments.python,
    )
    return _sent(sent, client, held, recipe.name, arguments.follow)


def resume(arguments: Namespace) -> int:
    """``star-rl resume``."""
    from launch import submit as sending
    from launch.secret import Secrets

    client = _client(arguments)
    sent = sending.resume(client, arguments.run, arguments.env)
    held = Secrets.from_environment(sending.find(client, sent.id)["env"])
    return _sent(sent, client, held, arguments.run, arguments.follow)


def _sent(sent: Any, client: Any, held: Any, name: str, follow: bool) -> int:
    from launch import submit as sending

    print(f"{sent.id}: sent in {sent.seconds:.1f} s", flush=True)
    if follow:
        return sending.follow(client, sent.id, held)
    print(f"star-rl status {name} --follow shows its log, star-rl stop {name} ends it")
    return 0


def status(arguments: Namespace) -> int:
    """``star-rl status``: a run folder's stages, or the cluster's jobs."""
    if arguments.run and (Path(arguments.run) / "recipe.yaml").is_file():
        print("\n".join(stage_lines(Path(arguments.run))))
        return 0
    from launch import submit as sending
    from launch.secret import Secrets

    client = _client(arguments)
    if arguments.follow:
        entry = sending.find(client, arguments.run or "")
        held = Secrets({name: os.environ[name] for name in entry["env"] if name in os.environ})
        return sending.follow(client, entry["id"], held)
    print("\n".join(sending.status_lines(client, arguments.run)))
    return 0


def stage_lines(folder: Path) -> list[str]:
    """One line a stage of a run folder: done, begun, or not yet."""
    from star_rl.pipeline.chain import STAGES
    from star_rl.pipeline.stage import manifest_of

    lines = []
    for stage in STAGES:
        manifest = manifest_of(folder / stage.name)
        if manifest is not None:
            lines.append(
                f"{stage.name:<11} done    {manifest['seconds']:>9.1f} s  {manifest['figures'].get('summary', '')}"
            )
        else:
            lines.append(f"{stage.name:<11} {'begun' if (folder / stage.name).is_dir() else '-'}")
    return lines


def stop(arguments: Namespace) -> int:
    """``star-rl stop``."""
    from launch import submit as sending

    state = sending.stop(_client(arguments), arguments.run)
    print(f"{arguments.run}: {state.lower()}")
    return 0 if state in sending.TERMINAL else 1
