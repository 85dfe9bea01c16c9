"""``official``: methods of a run inside the official simulator."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from star_rl.cli.base import PARTS, command
from star_rl.errors import StarError

if TYPE_CHECKING:
    from star_rl.evaluation.methods import Method
    from star_rl.records import Task
    from star_rl.run import Run


@command(
    "official",
    "methods inside the official simulator, its figures held to ours",
    "official runs/quickstart random popularity item_knn star:temperature=0 --tasks 100",
    "official runs/amazon star --data DIR/output_data_all --task-root DIR/task/classic/amazon",
    "official runs/quickstart star --serve 127.0.0.1:8765",
)
@click.argument("run", help="folder of a run")
@click.argument("methods", nargs=-1, required=True, metavar="METHOD...", help="as star-rl evaluate names them")
@click.option("--part", type=click.Choice(PARTS), default="test")
@click.option("--tasks", "first", type=int, metavar="N", help="the first N only")
@click.option("--data", metavar="DIR", help="tables of the benchmark's download (default: the run's, written)")
@click.option("--task-root", metavar="DIR", help="folder of the download's tasks and groundtruth")
@click.option("--python", metavar="FILE", help="interpreter with websocietysimulator (see make official)")
@click.option("--threads", default=16, help="tasks that the simulator works on at once")
@click.option("--out", metavar="DIR", help="default: official in the run's folder")
@click.option("--serve", metavar="HOST:PORT", help="only answer agents of a simulator run elsewhere")
def official(
    run: str,
    methods: Sequence[str],
    part: str,
    first: int | None,
    data: str | None,
    task_root: str | None,
    python: str | None,
    threads: int,
    out: str | None,
    serve: str | None,
) -> int:
    import asyncio

    from star_rl.evaluation.methods import TaskContext, make
    from star_rl.evaluation.official import groups_below, simulate, table, write_layout
    from star_rl.evaluation.official.session import PYTHON
    from star_rl.evaluation.runner import context_of
    from star_rl.files import write_json
    from star_rl.pipeline.recipe import recipe_of
    from star_rl.progress import progress_line
    from star_rl.run import Run

    folder = Path(run)
    recipe = recipe_of(folder)
    world = Run(folder, asdict(recipe))
    if (folder / "evidence").exists():
        _ = world.store  # a store of another world is refused before the simulator starts
    target = Path(out) if out else folder / "official"
    target.mkdir(parents=True, exist_ok=True)
    made = [make(name, world, recipe.seed, target) for name in methods]
    if serve:
        return asyncio.run(_serve(made, world, serve))
    if data:
        tasks, place, groups = _all(world), Path(data), groups_below(Path(task_root or data))
    else:
        tasks, place = world.tasks(part)[:first], target / "data"
        groups = write_layout(place, tasks, world.visible, world.history, world.items, world.users, world.texts)
    whole = {task.task_id: task for task in tasks}
    context = context_of(world)

    def outside(task: Task) -> TaskContext:
        return context(whole[task.task_id], 0)

    with progress_line("official") as line:
        ran = simulate(
            made,
            groups,
            place,
            target,
            # the one given, the one of ``make official``, or this one
            python=Path(python) if python else PYTHON if PYTHON.is_file() else Path(sys.executable),
            known=tasks,
            items=world.items,
            users=world.users,
            summaries=world.summary,
            outside=outside,
            threads=threads,
            progress=line,
        )
        rows = asyncio.run(ran)
    print(table(rows))
    write_json(target / "official.json", [{**asdict(row), "agreed": row.agreed} for row in rows])
    print(f"{target}: star_rl_agent.py is the entry, outputs.json and evaluation.json of each run beside it")
    return 0 if all(row.agreed for row in rows) else 1


def _all(world: Run) -> list[Task]:
    return [task for part in PARTS for task in world.tasks(part)]


async def _serve(methods: list[Method], world: Run, place: str) -> int:
    """Answer agents of a simulator that runs elsewhere, until interrupted."""
    import asyncio

    from star_rl.evaluation.official import Bridge

    host, _, port = place.rpartition(":")
    if not port.isdigit():
        raise StarError(f"{place!r} is no place to listen at", "give HOST:PORT such as 127.0.0.1:8765")
    named = {method.name: method for method in methods}
    shown = world.items, world.users, None, world.summary
    async with Bridge(named, _all(world), *shown, host or "127.0.0.1", int(port)) as bridge:
        print(f"STAR_RL_BRIDGE={bridge.address}   methods (STAR_RL_METHOD): {', '.join(named)}", flush=True)
        await asyncio.Event().wait()
    return 0
