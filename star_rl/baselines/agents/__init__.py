"""The agentic baselines of the paper's table 1, as workflows over one chat client and in words of the project's own.

What each shows, asks and makes of the answer follows third parties' accounts of them, not their authors' code; where a
published agent has a fault that changes its score, it comes as published and mended (:attr:`Agent.fault`).

answer      an answer, and the list in it
reviews     what users wrote
workflow    what all share
plan        BaseAgent, CoTAgent, MemoryAgent, CoTMemAgent
entries     Baseline666, DummyAgent, RecHacker
simulated   Agent4Rec
"""

from collections.abc import Callable

from star_rl.baselines.agents.answer import Ranking
from star_rl.baselines.agents.entries import Baseline666, DummyAgent, RecHacker
from star_rl.baselines.agents.plan import BaseAgent, CoTAgent, CoTMemAgent, MemoryAgent
from star_rl.baselines.agents.reviews import ReviewOf, Reviews, no_reviews
from star_rl.baselines.agents.simulated import Agent4Rec
from star_rl.baselines.agents.workflow import Agent

#: Name -> maker ``(chat, *, mended=True, reviews=no_reviews) -> Agent``, in the order of the paper's table.
AGENTS: dict[str, Callable[..., Agent]] = {
    "base": BaseAgent,
    "cot": CoTAgent,
    "memory": MemoryAgent,
    "cot_memory": CoTMemAgent,
    "baseline666": Baseline666,
    "dummy": DummyAgent,
    "rechacker": RecHacker,
    "agent4rec": Agent4Rec,
}

__all__ = [
    "AGENTS",
    "Agent",
    "Agent4Rec",
    "BaseAgent",
    "Baseline666",
    "CoTAgent",
    "CoTMemAgent",
    "DummyAgent",
    "MemoryAgent",
    "Ranking",
    "RecHacker",
    "ReviewOf",
    "Reviews",
    "no_reviews",
]
