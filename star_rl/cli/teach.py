"""The teacher on a folder of tables, outside a recipe: ``teach``, and ``view`` of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from star_rl.cli.base import AT_LEAST_1, command
from star_rl.errors import StarError


@command(
    "teach",
    "run the teacher over tasks, resumable",
    "teach tables teacher --store store --visible tasks/visible.parquet --first 20",
    "teach tables teacher --store store --endpoint http://localhost:8000/v1 --passes 4",
    "teach runs/amazon --dry-run --prices 0.28 0.42 --rate 2500",
    "teach tables teacher --store store --endpoint http://localhost:8000/v1 --passes 4 --dry-run --probe 8",
)
@click.argument("tables", help="folder with interactions.parquet and items.parquet, or a run with --dry-run")
@click.argument("out", required=False, help="folder for the runs; the same command resumes")
@click.option("--tasks", help="Parquet file of tasks (default: tasks.parquet in the tables' folder)")
@click.option("--store", help="evidence store (needed unless --no-tools)")
@click.option("--visible", help="interactions behind the store (default: visible.parquet by the tasks)")
@click.option("--scenario", default="classic", help="scenario of the tasks and of the store")
@click.option("--first", type=click.IntRange(min=0), default=0, metavar="N", help="only the first N tasks")
@click.option("--passes", default=1, help="runs per task")
@click.option("--in-flight", default=16, help="runs at a time")
@click.option("--endpoint", multiple=True, metavar="URL", help="OpenAI-compatible; may repeat")
@click.option("--preset", default="", metavar="HOST", help="vllm, sglang, openai, deepseek, openrouter or ollama")
@click.option("--request", metavar="YAML", help="request fields: {drop: [..], rename: {..}, extra: {..}}")
@click.option("--model", default="", help="served model (default: the only one there is)")
@click.option("--planner-endpoint", multiple=True, metavar="URL", help="one for the planner")
@click.option("--planner-model", default="", help="the planner's model")
@click.option(
    "--planner-profile",
    type=click.Choice(["full", "compact"]),
    default="full",
    help="the prompt profile it was trained with",
)
@click.option("--key", default="STAR_RL_API_KEY", metavar="VARIABLE", help="environment variable with the key")
@click.option("--cache", help="response cache (default: cache.sqlite in the folder of the runs)")
@click.option("--prices", type=float, nargs=2, metavar="IN OUT", help="per million tokens")
@click.option("--timeout", default=120.0, help="seconds for one attempt")
@click.option("--temperature", default=0.7)
@click.option("--max-tokens", default=2048, help="of one answer")
@click.option("--prompt-tokens", default=6000, help="budget of the student's prompt: agents see the record it shows")
@click.option("--summaries", metavar="FOLDER", help="summaries of the records' older parts (of a run: RUN/summaries)")
@click.option("--top", default=20, help="ids in the ranking")
@click.option("--rounds", default=1, help="reflections at most")
@click.option("--lens", type=click.Choice(["text", "candidates"]), default="text", help="what a tool's answer says")
@click.option("--concurrent", is_flag=True, help="independent experts at once")
@click.option("--no-planner", is_flag=True, help="the teacher without its planner")
@click.option("--no-reflector", is_flag=True, help="the teacher without its reflector")
@click.option("--no-tools", is_flag=True, help="the teacher without its tools")
@click.option("--dry-run", is_flag=True, help="estimate calls, tokens, price and hours, and stop")
@click.option(
    "--probe", type=click.IntRange(min=0), default=0, metavar="N", help="measure N real runs first, and keep them"
)
@click.option("--rate", type=click.FloatRange(min=0.001), metavar="R", help="tokens out per second of all endpoints")
@click.option("--sample", type=AT_LEAST_1, default=100, metavar="N", help="tasks whose prompts are built")
def teach(tables: str, out: str | None, **given: Any) -> None:
    import asyncio

    from star_rl.chat.options import read_request
    from star_rl.estimate import estimate
    from star_rl.files import fingerprint, write_json
    from star_rl.mars import Account, RuleOptions, identity_of
    from star_rl.mars import teach as work
    from star_rl.mars.teach import RUNS
    from star_rl.progress import progress_line
    from star_rl.prompts import PromptOptions
    from star_rl.prompts.agents import prompts_version
    from star_rl.records import read_table, tasks_from
    from star_rl.run import TablesRun
    from star_rl.teacher import open_teacher

    dry = given["dry_run"] or given["probe"] > 0
    if dry and Path(tables, "recipe.yaml").is_file():
        if given["probe"]:
            raise StarError(f"{tables} is a run", "probe its tables: star-rl teach RUN/tables OUT .. --probe N")
        print(_estimated(tables, out, given))
        return
    if out is None and not given["dry_run"]:
        raise StarError("the runs have no folder", "give star-rl teach TABLES OUT")
    chat = {
        "concurrency": given["in_flight"] * (4 if given["concurrent"] else 1),
        "key_variable": given["key"],
        **dict(zip(("price_prompt", "price_completion"), given["prices"] or (), strict=False)),
        "request": read_request(given["request"]),
        **{name: given[name] for name in ("temperature", "max_tokens", "timeout")},
    }
    options: dict[str, Any] = {
        **{name: given[name] for name in ("rounds", "top", "concurrent")},
        **{part: not given[f"no_{part}"] for part in ("planner", "reflector", "tools")},
        "chat": {**chat, "endpoints": given["endpoint"], "model": given["model"], "preset": given["preset"]},
    }
    served = bool(given["endpoint"] or given["preset"])
    if given["planner_endpoint"]:
        if not served:
            raise StarError("the planner alone has an endpoint", "give --endpoint for the other agents as well")
        options["planner_chat"] = {**chat, "endpoints": given["planner_endpoint"], "model": given["planner_model"]}
    config = {
        "teacher": {"backend": "llm" if served else "rules", "options": options},
        "prompt": asdict(PromptOptions(profile=given["planner_profile"], budget=given["prompt_tokens"])),
        "tools": {"lens": given["lens"], "lens_top": 5},
        "sft_set": {"setting": "full"},
    }
    tasks = list(tasks_from(read_table(given["tasks"] or tables, "tasks")))[: given["first"] or None]
    visible = given["visible"] or Path(given["tasks"] or Path(tables, "tasks.parquet")).parent / "visible.parquet"
    place, scenario, summarised = (given[name] for name in ("store", "scenario", "summaries"))
    world = TablesRun(Path(tables), config, place, Path(visible), scenario, tasks, summarised)
    if options["tools"] and world.store is None:
        raise StarError("the teacher has no evidence store", "name one with --store, or run it with --no-tools")
    folder = Path(out or "")
    some, passes = (tasks, given["passes"]) if not dry else (tasks[: given["probe"]], 1)

    async def run() -> tuple[Account, list[Any]]:
        cache = Path(given["cache"] or folder / "cache.sqlite")
        async with open_teacher(world, config, RuleOptions().seed, cache) as teacher:
            evidence = fingerprint([world.store.fingerprint, given["lens"]]) if options["tools"] else ""
            told = world.summaries.fingerprint if world.summaries else ""
            identity = identity_of(teacher.team, prompts_version(), teacher.model, evidence, told)
            with progress_line("teach") as line:
                account = await work(
                    some,
                    teacher.team,
                    world.case,
                    folder,
                    identity,
                    passes,
                    given["in_flight"],
                    line,
                    lambda: teacher.cost,
                )
            return account, [client.usage.figures() for client in teacher.clients]

    if given["probe"] and not served:
        raise StarError("there is no model to probe", "give --endpoint")
    if some or not dry:
        account, usage = asyncio.run(run())
    if dry:
        print(estimate(world, config, tasks, given["passes"], folder, **_assumed(given)).text())
        return
    write_json(folder / "account.json", {**account.figures(), "chat": usage})
    account.check()
    failed = ", ".join(f"{code} {count}" for code, count in account.failed.items()) or "none"
    failed += f"; the commonest reason: {account.commonest}" if account.commonest else ""
    print(
        f"{account.done:,} of {account.total:,} runs in {folder / RUNS}: {account.found:,} found, "
        f"{account.ranked:,} ranked ({account.hits:,} hits, {account.corrected:,} sent back), failed: {failed}"
    )


def _assumed(given: dict[str, Any]) -> dict[str, Any]:
    return {"prices": given["prices"], **{name: given[name] for name in ("rate", "sample", "in_flight")}}


#: Options that an estimate of a run takes; its recipe holds all others.
_OF_A_RUN = {"tables", "out", "dry_run", "first", "passes", "prices", "rate", "sample"}


def _estimated(folder: str, out: str | None, given: dict[str, Any]) -> str:
    """Return the estimate of a run's stage ``teach``, measured by the runs in ``out`` where it is given.

    Raises:
        StarError: an option was given that the run's recipe decides.
    """
    from star_rl.estimate import estimate_stage
    from star_rl.run import Run

    context = click.get_current_context()
    named = [name for name in given if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    if other := [name for name in named if name not in _OF_A_RUN]:
        raise StarError(f"--{other[0].replace('_', '-')} is for tables: {folder} is a run", "its recipe decides it")
    run = Run.open(folder)
    values = {"passes": given["passes"], "tasks": given["first"]}
    wanted = {name: values[name] for name, flag in (("passes", "passes"), ("tasks", "first")) if flag in named}
    teacher = {**run.config["teacher"], **wanted}
    settings = {**_assumed(given), **({"measure": Path(out)} if out else {}), "in_flight": 32}
    return estimate_stage(Run(run.folder, {**run.config, "teacher": teacher}), **settings).text()


@command(
    "view",
    "look at the teacher's runs: one here, or all as a page",
    "view runs/quickstart/teach",
    "view runs/quickstart/teach --page teacher.html --items runs/quickstart/tables",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUNS...", help="files or folders of runs")
@click.option("--run", "wanted", help="show this run (task#pass) or the first of this task (default: the first of all)")
@click.option("--page", metavar="FILE", help="write an HTML page with all of them instead")
@click.option("--items", help="folder with items.parquet, for titles")
@click.option("--limit", default=2000, help="runs on the page at most")
def view(runs: Sequence[str], wanted: str | None, page: str | None, items: str | None, limit: int) -> None:
    from star_rl.mars.record import read_runs
    from star_rl.mars.view import find, show, write_page
    from star_rl.records import items_from, read_table

    known = items_from(read_table(items, "items")) if items else None
    if page:
        counts = write_page(runs, page, known, limit)
        print(f"{page}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
        return
    run = find(runs, wanted) if wanted else next(read_runs(runs), None)
    if run is None:
        raise StarError(f"{', '.join(runs)} hold no run yet", "let the teacher finish one")
    show(run, items=known)
