"""Stages ``teach``, ``sft_set`` and ``student``: the teacher's runs, what is learnt from them, and who learns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_builders.sft import SftOptions, build_sft
from launch.world import LACKING, World
from star_rl.errors import StarError
from star_rl.mars import (
    Account,
    Backend,
    RuleBackend,
    RuleOptions,
    Team,
    TeamOptions,
    identity_of,
    strength_of,
    teach,
)
from star_rl.mars.rules import TRUST
from star_rl.options import keys, known, read_options
from star_rl.prompts.agents import prompts_version
from star_rl.stage import Context

#: Conversations that the tiny student's tokenizer is trained on; more find no other phrases.
_TOKENIZER_TEXTS = 2000


#: Parts of ``teacher.options`` beside the fields of ``TeamOptions``: how the agents' work is done.
PARTS = ("rules", "llm", "chat", "planner_chat")


@dataclass(frozen=True, slots=True)
class Teacher:
    """The teacher of a recipe, ready to work.

    Attributes:
        team: lacks what the recipe's SFT setting lacks.
        model: what stands behind the agents: ``rules``, or the model that the endpoint serves.
        clients: chat clients in use; none for the rules.
        in_flight: tasks worked on at once.
    """

    team: Team
    model: str
    clients: tuple[Any, ...]
    in_flight: int

    @property
    def cost(self) -> float:
        return sum(client.usage.cost for client in self.clients)


@asynccontextmanager
async def open_teacher(world: World, config: Mapping[str, Any], seed: int, cache: Path) -> AsyncIterator[Teacher]:
    """Make the teacher of a recipe; its connections are closed with the block.

    ``teacher.backend: rules`` takes ``options.rules``; ``llm`` takes ``options.chat`` (star_rl.chat.ChatOptions),
    ``options.llm`` (star_rl.mars.llm.LlmOptions) and, for a planner of its own, ``options.planner_chat``.

    Args:
        cache: file of the response cache, so that nothing is paid for twice.

    Raises:
        StarError: an unknown option, or an endpoint that does not answer.
    """
    teacher = config["teacher"]
    lacks = LACKING.get(config["sft_set"]["setting"], "")
    options = dict(teacher["options"])
    parts = {name: dict(options.pop(name, None) or {}) for name in PARTS}
    fields = {"top": world.prompt.top, **options, **({lacks: False} if lacks else {})}
    team_options = read_options(TeamOptions, fields, "teacher.options")
    clients: list[Any] = []
    backend: Backend
    planner: Backend | None = None
    try:
        if teacher["backend"] == "rules":
            rules = read_options(RuleOptions, {"seed": seed, **parts["rules"]}, "teacher.options.rules")
            backend = RuleBackend(rules, strength_of(world.store))
        else:
            from star_rl.mars.llm import LlmBackend, LlmOptions
            from star_rl.mars.planner import TrainedPlanner

            llm = read_options(LlmOptions, parts["llm"], "teacher.options.llm")
            clients.append(_client("chat", parts["chat"], cache))
            backend = LlmBackend(clients[0], llm)
            if parts["planner_chat"]:
                clients.append(_client("planner_chat", parts["planner_chat"], cache))
                planner = TrainedPlanner(clients[1], world.prompt)
        await asyncio.gather(*(client.ready() for client in clients))
        team = Team(backend, lambda case: world.toolbox(case.candidates), team_options, planner)
        yield Teacher(team, clients[0].model if clients else "rules", tuple(clients), 32 if clients else 1)
    finally:
        for client in clients:
            await client.close()


def chat_options(name: str, values: Mapping[str, Any], cache: Path | None = None) -> Any:
    """``teacher.options.chat`` or ``planner_chat`` as :class:`star_rl.chat.ChatOptions`.

    Raises:
        StarError: no endpoint, an unknown option, or a value out of its range.
    """
    from star_rl.chat import ChatOptions

    where = f"teacher.options.{name}"
    known(values, keys(ChatOptions), where)
    if not values.get("endpoints"):
        raise StarError(
            f"{where} names no endpoint", f"set {where}.endpoints=[http://HOST:8000/v1], or teacher.backend=rules"
        )
    return read_options(ChatOptions, {"cache": str(cache or ""), **values}, where)


def _client(name: str, values: Mapping[str, Any], cache: Path) -> Any:
    from star_rl.chat import ChatClient

    return ChatClient(chat_options(name, values, cache))


def teach_stage(context: Context) -> dict[str, Any]:
    """Run the teacher over the training tasks; ``runs.jsonl`` holds one record a run."""
    world = World(context.run, context.config)
    options = context.config["teacher"]
    tasks = world.tasks("train")[: options["tasks"]]

    async def work() -> Account:
        async with open_teacher(world, context.config, context.seed, context.folder / "cache.sqlite") as teacher:
            return await teach(
                tasks,
                teacher.team,
                world.case,
                context.folder,
                identity_of(teacher.team, prompts_version(), teacher.model, world.store.fingerprint),
                passes=options["passes"],
                concurrency=teacher.in_flight,
                progress=context.progress,
                spent=lambda: teacher.cost,
            )

    account = asyncio.run(work())
    hit = account.hits / max(1, account.ranked)
    return {
        "summary": f"{account.done:,} runs, hit@1 {hit:.1%}, {account.corrected:,} sent back, "
        f"{account.tool_calls:,} tool calls, {sum(account.failed.values())} failed",
        **account.figures(),
    }


def sft_set_stage(context: Context) -> dict[str, Any]:
    """Filter the runs to those that hit, and write them as ms-swift parquet with an audit and a card."""
    world = World(context.run, context.config)
    options = context.config["sft_set"]
    audit = build_sft(
        context.inputs["teach"] / "runs.jsonl",
        world.history,
        world.items,
        context.folder,
        SftOptions(
            setting=options["setting"],
            prompt=world.prompt,
            per_task=options["per_task"],
            limit=options["limit"] or 0,
            max_tokens=options["max_tokens"],
            seed=context.seed,
        ),
    )
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in audit["dropped"].items() if count)
    return {"summary": f"{audit['kept']:,} of {audit['read']:,} runs kept (dropped: {reasons or 'none'})", **audit}


def student_stage(context: Context) -> dict[str, Any]:
    """Make the tiny student, or check that the model named in the recipe can be one."""
    options = context.config["student"]
    if options["path"]:
        return given_student(options["path"])
    import pyarrow.parquet as pq

    from star_rl.student.model import StudentShape, make_student
    from star_rl.student.template import render
    from star_rl.student.tokenizer import train_tokenizer

    world = World(context.run, context.config)
    table = pq.read_table(context.inputs["sft_set"] / "sft.parquet")
    rows = table.slice(0, _TOKENIZER_TEXTS).to_pylist()
    texts = [render(row["messages"], row.get("tools")) for row in rows]  # a student without tools has no such column
    # The signal that is trusted stays a token of its own, so that one decision is one token.
    words = sorted(TRUST.values())
    model = context.folder / "model"
    context.progress(0, 2, "tokenizer")
    report = train_tokenizer(texts, world.items, model, words=words, **options["tokenizer"])
    context.progress(1, 2, "weights")
    parameters = make_student(model, model, StudentShape(**{"seed": context.seed, **options["shape"]}))
    return {
        "summary": f"Qwen3 of {parameters / 1e6:.2f} M parameters, vocabulary {report.vocab_size:,}, "
        f"{report.tokens_per_text:.0f} tokens a trajectory",
        "parameters": parameters,
        "vocabulary": report.vocab_size,
        "tokens_per_text": report.tokens_per_text,
    }


def given_student(path: str) -> dict[str, Any]:
    """What the manifest says of a student that exists already.

    Raises:
        StarError: the folder holds no Qwen3 model.
    """
    folder = Path(path)
    if folder.exists() or path.startswith((".", "/")):
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise StarError(f"student.path={path} holds no {name}", "name a Hugging Face model folder, or a hub id")
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind != "qwen3":
            raise StarError(f"student.path={path} is a {kind} model", "STAR's chat form is Qwen3's: name a Qwen3 model")
    return {"summary": f"{path}, as it is", "path": path}


def student_path(context: Context) -> str | Path:
    """Folder or hub id of the student's first weights."""
    return context.config["student"]["path"] or context.inputs["student"] / "model"
