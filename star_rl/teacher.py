"""The teacher that a recipe describes, opened with its chat clients and its team."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.mars import RuleBackend, RuleOptions, Team, TeamOptions
from star_rl.mars.agents import Backend, ToolsOf
from star_rl.options import known, read_options
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
async def open_teacher(
    world: Run,
    config: Mapping[str, Any],
    seed: int,
    cache: Path,
    client: Callable[..., Any] | None = None,
    tools: ToolsOf | None = None,
) -> AsyncIterator[Teacher]:
    """Make the teacher of a recipe; its connections are closed with the block.

    ``teacher.backend: rules`` takes ``options.rules``; ``llm`` takes ``options.chat`` (star_rl.chat.ChatOptions),
    ``options.llm`` (star_rl.mars.llm.LlmOptions) and, for a planner of its own, ``options.planner_chat``.

    Args:
        cache: file of the response cache, so that nothing is paid for twice.
        client: makes a chat client of (name, options, cache), in the place of the endpoint's.
        tools: makes the tools of a case, in the place of the run's.

    Raises:
        StarError: an unknown option, or an endpoint that does not answer.
    """
    teacher = config["teacher"]
    lacks = dict.fromkeys(LACKING.get(config["sft_set"]["setting"], ()), False)
    options = dict(teacher["options"])
    parts = {name: dict(options.pop(name, None) or {}) for name in PARTS}
    fields = {"top": world.prompt.top, **options, **lacks}
    team_options = read_options(TeamOptions, fields, "teacher.options")
    clients: list[Any] = []
    client = client or _client
    backend: Backend
    planner: Backend | None = None
    try:
        if teacher["backend"] == "rules":
            rules = read_options(RuleOptions, {"seed": seed, **parts["rules"]}, "teacher.options.rules")
            backend = RuleBackend(rules, world.popular if world.prompt.scope == "rank" else None)
        else:
            from star_rl.mars.llm import LlmBackend, LlmOptions, TrainedPlanner

            llm = read_options(LlmOptions, parts["llm"], "teacher.options.llm")
            clients.append(client("chat", parts["chat"], cache))
            backend = LlmBackend(clients[0], llm, replace(world.prompt, profile="full"), world.length)
            if parts["planner_chat"]:
                clients.append(client("planner_chat", parts["planner_chat"], cache))
                planner = TrainedPlanner(clients[1], world.prompt, world.length)
        await asyncio.gather(*(opened.ready() for opened in clients))
        team = Team(backend, tools or world.toolbox, team_options, planner)
        yield Teacher(team, clients[0].model if clients else "rules", tuple(clients), 32 if clients else 1)
    finally:
        for opened in clients:
            await opened.close()


def chat_options(where: str, values: Mapping[str, Any], cache: Path | None = None) -> Any:
    """Return section ``where`` of a recipe, such as ``teacher.options.chat``, as :class:`star_rl.chat.ChatOptions`.

    Raises:
        StarError: no endpoint, an unknown option, or a value out of its range.
    """
    from star_rl.chat import ChatOptions
    from star_rl.chat.options import PRESETS

    known(values, ChatOptions.__dataclass_fields__, where)
    preset = PRESETS.get(str(values.get("preset")))
    if not values.get("endpoints") and not (preset and preset.endpoint):
        instead = "summaries.by=rules" if where == "summaries.chat" else "teacher.backend=rules"
        raise StarError(f"{where} names no endpoint", f"set {where}.endpoints=[http://HOST:8000/v1], or {instead}")
    return read_options(ChatOptions, {"cache": str(cache or ""), **values}, where)


def summaries_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of stage ``summaries``: what decides its output.

    What ``summaries.chat`` leaves out is the teacher's ``options.chat``. Where no endpoint is named and the teacher is
    made of rules, so are the summaries.
    """
    section, teacher = dict(config["summaries"]), config["teacher"]
    served = dict(teacher["options"].get("chat") or {}) if teacher["backend"] == "llm" else {}
    chat = {**served, **section.pop("chat")}
    if section["by"] == "llm" and teacher["backend"] == "rules" and not (chat.get("endpoints") or chat.get("preset")):
        section["by"] = "rules"
    if section["by"] == "none":
        return {"by": "none"}
    return {**section, **({"chat": chat} if section["by"] == "llm" else {})}


def _client(name: str, values: Mapping[str, Any], cache: Path) -> Any:
    from star_rl.chat import ChatClient

    return ChatClient(chat_options(f"teacher.options.{name}", values, cache))
