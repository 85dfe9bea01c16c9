"""``star-rl official``: methods of a run inside the official simulator."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from data_builders.tasks import PARTS
from launch.commands import _line, recipe_of
from launch.world import World
from star_rl.baselines.agents import Reviews
from star_rl.errors import StarError
from star_rl.evaluation.methods import Method, TaskContext, make
from star_rl.evaluation.official import Bridge, groups_below, simulate, table, write_layout
from star_rl.evaluation.official.session import PYTHON
from star_rl.files import write_json
from star_rl.records import Task, read_table


def official(arguments: Namespace) -> int:
    """Print the official figures beside ours; 1 where they differ."""
    folder = Path(arguments.run)
    recipe = recipe_of(folder)
    world = World(folder, asdict(recipe))
    _ = world.store  # a store of another world is refused before the simulator starts
    out = Path(arguments.out) if arguments.out else folder / "official"
    out.mkdir(parents=True, exist_ok=True)
    methods = [make(name, world, recipe.seed, out) for name in arguments.methods]
    if arguments.serve:
        return asyncio.run(_serve(methods, world, arguments.serve))
    if arguments.data:
        tasks = _all(world)
        data, groups = Path(arguments.data), groups_below(Path(arguments.task_root or arguments.data))
    else:
        tasks = world.tasks(arguments.part)[: arguments.tasks]
        data = out / "data"
        interactions = read_table(folder / "tables", "interactions")
        reviews = Reviews(interactions, [task.user_id for task in tasks])
        groups = write_layout(data, tasks, world.visible, world.history, world.items, world.users, reviews)
    whole = {task.task_id: task for task in tasks}
    with _line("official") as line:
        ran = simulate(
            methods,
            groups,
            data,
            out,
            python=_python(arguments.python),
            known=tasks,
            items=world.items,
            users=world.users,
            outside=lambda task: TaskContext(
                world.history(whole[task.task_id]), world.items, user=world.users(task.user_id)
            ),
            threads=arguments.threads,
            progress=line,
        )
        rows = asyncio.run(ran)
    print(table(rows))
    write_json(out / "official.json", [{**asdict(row), "agreed": row.agreed} for row in rows])
    print(f"{out}: star_rl_agent.py is the entry, outputs.json and evaluation.json of each run beside it")
    return 0 if all(row.agreed for row in rows) else 1


def _all(world: World) -> list[Task]:
    return [task for part in PARTS for task in world.tasks(part)]


def _python(given: str | None) -> Path:
    """The interpreter of the simulator: the one given, the one of ``make official``, or this one."""
    if given:
        return Path(given)
    return PYTHON if PYTHON.is_file() else Path(sys.executable)


async def _serve(methods: list[Method], world: World, place: str) -> int:
    """Answer agents of a simulator that somebody else runs, until interrupted."""
    host, _, port = place.rpartition(":")
    if not port.isdigit():
        raise StarError(f"{place!r} is no place to listen at", "give HOST:PORT such as 127.0.0.1:8765")
    named = {method.name: method for method in methods}
    async with Bridge(named, _all(world), world.items, world.users, host=host or "127.0.0.1", port=int(port)) as bridge:
        print(f"STAR_RL_BRIDGE={bridge.address}   methods (STAR_RL_METHOD): {', '.join(named)}", flush=True)
        await asyncio.Event().wait()
    return 0
