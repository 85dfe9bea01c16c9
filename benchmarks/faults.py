"""The teacher against an endpoint of which 30 % of the answers are faulty: the account of what became of every task.

    python -m benchmarks.faults [--tasks 200] [--share 0.3] [--in-flight 32] [--silence 60] [--timeout 3] [--out FILE]

The endpoint is the one of the tests (``tests/chat/endpoint.py``): it plays the agents, and answers with 429, 500,
resets, silence, truncated, invalid and endless replies, and with what a model says that does its job badly (wrong
tools, broken JSON, forged tags, foreign ids). Exit code 1 where a task is missing or stands twice, or where a text
does not survive the way through the grammar.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import tempfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.harness import CACHE, ROOT, machine, read_options, write_json
from benchmarks.trajectories import Store, world
from star_rl.chat import ChatClient, ChatOptions
from star_rl.mars import Team, identity_of, read_runs, teach
from star_rl.mars.llm import LlmBackend, LlmOptions
from star_rl.prompts import Case
from star_rl.prompts.agents import prompts_version
from star_rl.tools import ToolBox
from star_rl.trajectory import parse, render


def endpoint() -> ModuleType:
    spec = importlib.util.spec_from_file_location("star_rl_test_endpoint", ROOT / "tests" / "chat" / "endpoint.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    items, histories, tasks = world(options.tasks)
    store = Store(list(items))
    async with endpoint().Endpoint(faulty=options.share, seed=options.seed, silence=options.silence) as server:
        chat_options = ChatOptions(
            (server.url,),
            "m",
            concurrency=options.in_flight,
            timeout=options.timeout,
            retries=6,
            backoff=0.2,
            cache=str(folder / "cache.sqlite"),
        )
        async with ChatClient(chat_options) as chat:
            team = Team(LlmBackend(chat, LlmOptions()), lambda case: ToolBox(store, case.candidates))
            account = await teach(
                tasks,
                team,
                lambda task: Case.of(task, histories[task.user_id], items),
                folder / "runs",
                identity_of(team, prompts_version(), "m", "synthetic"),
                concurrency=options.in_flight,
            )
            usage = chat.usage.figures()
        requests = server.seen.pop("calls")
        sound = server.seen.pop("", 0)
        served = dict(server.seen.most_common())
    runs = list(read_runs(folder / "runs"))
    counts = Counter(entry.id for entry in runs)
    wanted = {f"{task.task_id}#0" for task in tasks}
    return {
        "tasks": len(tasks),
        "lost": len(wanted - counts.keys()),
        "twice": sum(count > 1 for count in counts.values()),
        "ranked": account.ranked,
        "failed": dict(account.failed.most_common()),
        "reasons": dict(Counter(str(entry.failure)[:100] for entry in runs if entry.failure).most_common(12)),
        "requests": requests,
        "faulty_share": round(1 - sound / requests, 4),
        "served_faults": served,
        "client": usage,
        "round_trip": sum(render(parse(entry.text)) == entry.text for entry in runs),
        "seconds": round(account.seconds, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.3, help="faulty answers")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--silence", type=float, default=60.0, help="seconds of a silent answer")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds the client waits for one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=CACHE / "faults.json")
    options = read_options(parser, tasks=12, timeout=1.0)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(run(options, Path(folder)))
    client = found["client"]
    print(f"{found['requests']:,} requests, {found['faulty_share']:.1%} faulty; {found['seconds']} s")
    print(f"  served:  {', '.join(f'{kind} {count}' for kind, count in found['served_faults'].items())}")
    print(f"  client:  {client['calls']:,} calls, {client['attempts']:,} attempts, given up {client['failed']}; faults "
          f"{', '.join(f'{kind} {count}' for kind, count in sorted(client['faults'].items()))}")  # fmt: skip
    failed = ", ".join(f"{code} {count}" for code, count in found["failed"].items()) or "none"
    print(f"  tasks:   {found['tasks']}: ranked {found['ranked']}, failed {sum(found['failed'].values())} ({failed}); "
          f"lost {found['lost']}, twice {found['twice']}; {found['round_trip']} texts round-trip")  # fmt: skip
    for reason, count in found["reasons"].items():
        print(f"    {count:4} {reason}")
    write_json(options.out, {"machine": machine(("httpx",)), **found})
    ended = found["ranked"] + sum(found["failed"].values())
    return 0 if ended == found["tasks"] == found["round_trip"] and not found["lost"] and not found["twice"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
