"""The agentic baselines of the paper's table 1, as workflows over one chat client and with our own prompts.

They follow third-party descriptions of the agents, not their authors' code. An agent whose published form has a fault
that changes its score comes in two forms, as published and mended (:attr:`BaselineAgent.fault`).
"""

from collections.abc import Callable

from star_rl.baselines.agents.answer import AgentAnswer
from star_rl.baselines.agents.simulated import Agent4Rec
from star_rl.baselines.agents.single import (
    BaseAgent,
    Baseline666,
    CoTAgent,
    CoTMemAgent,
    DummyAgent,
    MemoryAgent,
    RecHacker,
)
from star_rl.baselines.agents.workflow import BaselineAgent

#: Name -> maker ``(chat, *, mended=True) -> BaselineAgent``, in the order of the paper's table.
AGENTS: dict[str, Callable[..., BaselineAgent]] = {
    "base": BaseAgent,
    "cot": CoTAgent,
    "memory": MemoryAgent,
    "cot_memory": CoTMemAgent,
    "baseline666": Baseline666,
    "dummy": DummyAgent,
    "rechacker": RecHacker,
    "agent4rec": Agent4Rec,
}

__all__ = ["AGENTS", "AgentAnswer", "BaseAgent", "BaselineAgent"]
