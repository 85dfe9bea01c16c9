"""The teacher that a recipe describes, opened with its chat clients and its team."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.mars import (
    Backend,
    RuleBackend,
    RuleOptions,
    Team,
    TeamOptions,
    strength_of,
)
from star_rl.options import keys, known, read_options
from star_rl.run import Run
from star_rl.trajectory import LACKING

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
async def open_teacher(world: Run, config: Mapping[str, Any], seed: int, cache: Path) -> AsyncIterator[Teacher]:
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
            backend = RuleBackend(rules, None if world.store is None else strength_of(world.store))
        else:
            from star_rl.mars.llm import LlmBackend, LlmOptions
            from star_rl.mars.planner import TrainedPlanner

            llm = read_options(LlmOptions, parts["llm"], "teacher.options.llm")
            clients.append(_client("chat", parts["chat"], cache))
            backend = LlmBackend(clients[0], llm, replace(world.prompt, profile="full"), world.length)
            if parts["planner_chat"]:
                clients.append(_client("planner_chat", parts["planner_chat"], cache))
                planner = TrainedPlanner(clients[1], world.prompt, world.length)
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
