"""``star-rl official``: methods of a run inside the official simulator."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from star_rl.baselines.agents import Reviews
from star_rl.errors import StarError
from star_rl.evaluation.methods import Method, TaskContext, make
from star_rl.evaluation.official import Bridge, groups_below, simulate, table, write_layout
from star_rl.evaluation.official.session import PYTHON
from star_rl.files import write_json
from star_rl.progress import progress_line
from star_rl.records import PARTS, Task, read_table
from star_rl.run import Run


def command(arguments: Namespace) -> int:
    """``star-rl official``: print the official figures beside ours; exit code 1 where they differ."""
    run = Run.open(arguments.run)
    folder = run.folder
    if (folder / "evidence").exists():
        _ = run.store  # a store of another world is refused before the simulator starts
    out = Path(arguments.out) if arguments.out else folder / "official"
    out.mkdir(parents=True, exist_ok=True)
    methods = [make(name, run, run.config["seed"], out) for name in arguments.methods]
    if arguments.serve:
        return asyncio.run(_serve(methods, run, arguments.serve))
    if arguments.data:
        tasks = _all(run)
        data, groups = Path(arguments.data), groups_below(Path(arguments.task_root or arguments.data))
    else:
        tasks = run.tasks(arguments.part)[: arguments.tasks]
        data = out / "data"
        interactions = read_table(folder / "tables", "interactions")
        reviews = Reviews(interactions, [task.user_id for task in tasks])
        groups = write_layout(data, tasks, run.visible, run.history, run.items, run.users, reviews)
    whole = {task.task_id: task for task in tasks}
    with progress_line("official") as line:
        ran = simulate(
            methods,
            groups,
            data,
            out,
            python=_python(arguments.python),
            known=tasks,
            items=run.items,
            users=run.users,
            outside=lambda task: TaskContext(
                task, run.history(whole[task.task_id]), run.items, user=run.users(task.user_id)
            ),
            threads=arguments.threads,
            progress=line,
        )
        rows = asyncio.run(ran)
    print(table(rows))
    write_json(out / "official.json", [{**asdict(row), "agreed": row.agreed} for row in rows])
    print(f"{out}: star_rl_agent.py is the entry, outputs.json and evaluation.json of each run beside it")
    return 0 if all(row.agreed for row in rows) else 1


def _all(run: Run) -> list[Task]:
    return [task for part in PARTS for task in run.tasks(part)]


def _python(given: str | None) -> Path:
    """Return the simulator's interpreter: the one given, the one of ``make official``, or this one."""
    if given:
        return Path(given)
    return PYTHON if PYTHON.is_file() else Path(sys.executable)


async def _serve(methods: list[Method], run: Run, place: str) -> int:
    """Answer agents of a simulator that runs elsewhere, until interrupted."""
    host, _, port = place.rpartition(":")
    if not port.isdigit():
        raise StarError(f"{place!r} is no place to listen at", "give HOST:PORT such as 127.0.0.1:8765")
    named = {method.name: method for method in methods}
    async with Bridge(named, _all(run), run.items, run.users, host=host or "127.0.0.1", port=int(port)) as bridge:
        print(f"STAR_RL_BRIDGE={bridge.address}   methods (STAR_RL_METHOD): {', '.join(named)}", flush=True)
        await asyncio.Event().wait()
    return 0
