"""The sub-commands ``star-rl teach`` and ``star-rl view``: what they take, and the wiring of tables, store and
endpoint."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from star_rl.chat import ChatClient, ChatOptions
from star_rl.errors import StarError
from star_rl.files import fingerprint, write_json
from star_rl.mars.agents import Backend
from star_rl.mars.case import Case
from star_rl.mars.llm import LlmBackend, LlmOptions
from star_rl.mars.planner import TrainedPlanner
from star_rl.mars.record import read_runs
from star_rl.mars.rules import RuleBackend, RuleOptions, strength_of
from star_rl.mars.teach import RUNS, Account, identity_of, teach
from star_rl.mars.team import Team, TeamOptions
from star_rl.mars.view import find, show, write_page
from star_rl.progress import progress_line
from star_rl.prompts import PromptOptions
from star_rl.prompts.agents import prompts_version
from star_rl.records import Item, Task, UserTable, items_from, read_interactions, read_table, tasks_from
from star_rl.tools import LENSES, ToolBox


def register(commands: Any) -> None:
    """Add ``teach`` and ``view`` to the sub-parsers of the command line."""
    _register_teach(commands.add_parser("teach", help="run the teacher over tasks, resumable"))
    _register_view(commands.add_parser("view", help="look at the teacher's runs: one here, or all as a page"))


def _register_teach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", help="folder with interactions.parquet and items.parquet")
    parser.add_argument("out", help="folder for the runs; the same command goes on where it was")
    parser.add_argument("--tasks", help="Parquet file of tasks (default: tasks.parquet in the tables' folder)")
    parser.add_argument("--store", help="evidence store (needed unless --no-tools)")
    parser.add_argument("--visible", help="interactions behind the store (default: visible.parquet by the tasks)")
    parser.add_argument("--scenario", default="classic", help="scenario of the tasks and of the store")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="only the first N tasks")
    parser.add_argument("--passes", type=int, default=1, help="runs per task")
    parser.add_argument("--in-flight", type=int, default=16, help="runs at a time")
    parser.add_argument("--endpoint", action="append", default=[], metavar="URL", help="OpenAI-compatible; may repeat")
    parser.add_argument("--model", default="", help="served model (default: the only one there is)")
    parser.add_argument("--planner-endpoint", action="append", default=[], metavar="URL", help="one for the planner")
    parser.add_argument("--planner-model", default="", help="the planner's model")
    parser.add_argument(
        "--planner-profile", choices=("full", "compact"), default="full", help="the prompt profile it was trained with"
    )
    parser.add_argument(
        "--key", default="STAR_RL_API_KEY", metavar="VARIABLE", help="environment variable with the key"
    )
    parser.add_argument("--cache", help="response cache (default: cache.sqlite in the folder of the runs)")
    parser.add_argument("--prices", type=float, nargs=2, default=(0.0, 0.0), metavar=("IN", "OUT"), help="per million")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one attempt")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=2048, help="of one answer")
    parser.add_argument("--prompt-tokens", type=int, default=12000, help="of an agent's first prompt")
    parser.add_argument("--chunk", type=int, default=40, help="behaviours in a chunk of the abstractor, 0 = none")
    parser.add_argument("--top", type=int, default=20, help="ids in the ranking")
    parser.add_argument("--rounds", type=int, default=1, help="reflections at most")
    parser.add_argument("--lens", choices=LENSES, default="text", help="what a tool's answer says")
    parser.add_argument("--concurrent", action="store_true", help="independent experts at once")
    for part in ("planner", "reflector", "tools"):
        parser.add_argument(f"--no-{part}", dest=part, action="store_false", help=f"the teacher without its {part}")
    parser.set_defaults(call=lambda arguments: asyncio.run(run_teach(arguments)))


def _register_view(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", help="files or folders of runs")
    parser.add_argument("--run", help="show this run (task#pass) or the first of this task (default: the first of all)")
    parser.add_argument("--page", metavar="FILE", help="write an HTML page with all of them instead")
    parser.add_argument("--items", help="folder with items.parquet, for titles")
    parser.add_argument("--limit", type=int, default=2000, help="runs on the page at most")
    parser.set_defaults(call=run_view)


def run_view(arguments: argparse.Namespace) -> int:
    """``star-rl view``."""
    items = items_from(read_table(arguments.items, "items")) if arguments.items else None
    if arguments.page:
        counts = write_page(arguments.runs, arguments.page, items, arguments.limit)
        print(f"{arguments.page}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
        return 0
    run = find(arguments.runs, arguments.run) if arguments.run else next(read_runs(arguments.runs), None)
    if run is None:
        raise StarError(f"{', '.join(arguments.runs)} hold no run yet", "let the teacher finish one")
    show(run, items=items)
    return 0


async def run_teach(arguments: argparse.Namespace) -> int:
    """``star-rl teach``: exit code 0 when every run ended, whether ranked or as a recorded failure."""
    tables = Path(arguments.tables)
    tasks = _tasks(arguments, tables)
    items = items_from(read_table(tables, "items"))
    case_of = _cases(tables, items)
    store = _store(arguments, tables, tasks)
    clients = [_client(arguments, arguments.endpoint, arguments.model)] if arguments.endpoint else []
    llm = LlmOptions(prompt_tokens=arguments.prompt_tokens, chunk=arguments.chunk)
    backend: Backend = LlmBackend(clients[0], llm) if clients else _rules(store)
    planner: Backend | None = None
    if arguments.planner_endpoint:
        clients.append(_client(arguments, arguments.planner_endpoint, arguments.planner_model))
        planner = TrainedPlanner(clients[-1], PromptOptions(profile=arguments.planner_profile))
    options = TeamOptions(
        arguments.planner,
        arguments.reflector,
        arguments.tools,
        arguments.rounds,
        arguments.top,
        arguments.concurrent,
    )
    lens = arguments.lens
    tools_of = None if store is None else lambda case: ToolBox(store, case.candidates, lens)
    try:
        team = Team(backend, tools_of, options, planner)
        await asyncio.gather(backend.ready(), *([planner.ready()] if planner else []))
        model = clients[0].model if arguments.endpoint else "rules"
        evidence = fingerprint([store.fingerprint, lens]) if store is not None and arguments.tools else ""
        with progress_line("teach") as line:
            account = await teach(
                tasks,
                team,
                case_of,
                arguments.out,
                identity_of(team, prompts_version(), model, evidence),
                arguments.passes,
                arguments.in_flight,
                line,
                lambda: sum(client.usage.cost for client in clients),
            )
    finally:
        for client in clients:
            await client.close()
    _report(arguments, account, clients)
    return 0


def _tasks(arguments: argparse.Namespace, tables: Path) -> list[Task]:
    tasks = list(tasks_from(read_table(arguments.tasks or tables, "tasks")))
    if arguments.first < 0:
        raise StarError(f"--first is {arguments.first}", "give a number above 0, or leave it out for all tasks")
    return tasks[: arguments.first or None]


def _cases(tables: Path, items: Mapping[str, Item]) -> Callable[[Task], Case]:
    from star_rl.scenarios import Histories

    histories, users = Histories(read_table(tables, "interactions")), UserTable.read(tables)
    return lambda task: Case.of(task, histories.history(task), items, users(task.user_id))


def _store(arguments: argparse.Namespace, tables: Path, tasks: list[Task]) -> Any:
    if not arguments.store:
        if arguments.tools:
            raise StarError("the teacher has no evidence store", "name one with --store, or run it with --no-tools")
        return None
    from star_rl.evidence import EvidenceStore
    from star_rl.evidence.leak import contains_of, visible_fingerprint

    visible = Path(arguments.visible or Path(arguments.tasks or tables / "tasks.parquet").parent / "visible.parquet")
    if not visible.exists():
        raise StarError(
            f"there are no visible interactions {visible}", "name the file the store was built from with --visible"
        )
    store = EvidenceStore.open(arguments.store, arguments.scenario, visible_fingerprint(visible))
    store.check_targets(tasks, contains_of(read_interactions(visible), tasks))
    return store


def _rules(store: Any) -> RuleBackend:
    return RuleBackend(RuleOptions(), None if store is None else strength_of(store))


def _client(arguments: argparse.Namespace, endpoints: list[str], model: str) -> ChatClient:
    options = ChatOptions(
        tuple(endpoints),
        model,
        concurrency=arguments.in_flight * (4 if arguments.concurrent else 1),
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        timeout=arguments.timeout,
        cache=arguments.cache or str(Path(arguments.out) / "cache.sqlite"),
        key_variable=arguments.key,
        price_prompt=arguments.prices[0],
        price_completion=arguments.prices[1],
    )
    return ChatClient(options)


def _report(arguments: argparse.Namespace, account: Account, clients: list[ChatClient]) -> None:
    figures = {**account.figures(), "chat": [client.usage.figures() for client in clients]}
    write_json(Path(arguments.out) / "account.json", figures)
    failed = ", ".join(f"{code} {count}" for code, count in account.failed.items()) or "none"
    print(
        f"{account.done:,} of {account.total:,} runs in {Path(arguments.out) / RUNS}: {account.found:,} found, "
        f"{account.ranked:,} ranked ({account.hits:,} hits, {account.corrected:,} sent back), failed: {failed}"
    )
