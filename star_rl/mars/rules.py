"""The rule backend: agents played from counts and evidence, without a language model.

Each expert reads what the student will read, the history and the tools' answers as text. It writes short constant
phrases that a student of a million parameters can learn. Random choices (which signal to trust, whether the profile is
written in haste) are a hash of seed, task and pass, so they repeat in every process.

Strategy ``category`` ignores the evidence: a habit that reinforcement learning can drop, in the quickstart alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from typing import Any

from star_rl.errors import StarError
from star_rl.mars.agents import DIVERGENCE, HISTORICAL, PROFILE, RECENT, Agent, Step, View
from star_rl.mars.notes import rank_by_notes, rewrite_notes
from star_rl.options import Number, Share, Size, Whole, options
from star_rl.prompts import Behaviour, Case
from star_rl.prompts.slots import HISTORY
from star_rl.tools import AMONG, ARGUMENT
from star_rl.trajectory import EXPERTS, Response, Thinking, ToolCall, json_block
from star_rl.trajectory.model import Block, decode

#: Strategy -> the name of the signal it trusts.
TRUST = {
    "users": "similar users",
    "history": "whole history",
    "recent": "recent item",
    "category": "category match",
}
#: Expert -> the strategy whose evidence it brings.
_BROUGHT = {PROFILE: "users", HISTORICAL: "history", RECENT: "recent", DIVERGENCE: "spread"}


@options
class RuleOptions:
    """Options of the rules. All affect results.

    Attributes:
        strategies: weight of each strategy of :data:`TRUST`; those without evidence in a case are skipped.
        haste: share of runs whose profile uses the last interaction alone, for the reflector to find.
        window: latest interactions that the rules read; show the student as many.
        scattered: with a top category below this share of the window, the planner also sends
            Interest_Divergence_Reasoning.
        popular: weight of how often an item was chosen, where one phase ranks by the notes (:mod:`star_rl.mars.notes`).
        seed: of the hash.
    """

    strategies: Mapping[str, Number] = field(
        default_factory=lambda: {"users": 1.0, "history": 1.0, "recent": 1.0, "category": 0.0}
    )
    haste: Share = 0.2
    window: Size = 8
    scattered: Share = 0.2
    popular: Number = 0.0
    seed: Whole = 0

    def __post_init__(self) -> None:
        for name in self.strategies:
            if name not in TRUST:
                raise StarError(f"strategies.{name} is not known", f"choose among {', '.join(TRUST)}")
        if not sum(self.strategies.values()) > 0:
            raise StarError("strategies have weights that sum to 0", "give at least one a weight above 0")


class RuleBackend:
    """The agents played by rules; they read the tools' answers of the lens ``candidates``.

    Args:
        popular: for a team of a ranker alone: how often each item was chosen.
    """

    def __init__(self, options: RuleOptions | None = None, popular: Mapping[str, int] | None = None) -> None:
        self.options, self._popular = options or RuleOptions(), popular
        self._act = {
            "Planner": self._plan,
            PROFILE: self._profile,
            HISTORICAL: self._historical,
            RECENT: self._recent,
            DIVERGENCE: self._divergence,
            "Reflector": self._reflect,
            "Ranker": self._rank if popular is None else self._rank_by_notes,
            "Rewriter": self._rewrite,
        }

    @property
    def describe(self) -> dict[str, Any]:
        options = {**asdict(self.options), "strategies": dict(self.options.strategies)}
        return {"backend": "rules", **options}

    async def ready(self, tools: bool = False) -> None:
        """Rules are always ready."""

    async def act(self, agent: Agent, view: View) -> Step:
        blocks, value = self._act[agent.name](view)
        return Step(agent.name, agent.tag, view.round, [*blocks, json_block(value)], value)

    # ---------------------------------------------------------------------------------------------------- planner

    def _plan(self, view: View) -> tuple[list[Block], Any]:
        shown = self._shown(view)
        if not shown:
            return [Thinking("No history.")], [PROFILE]
        if len(shown) < 3:
            return [Thinking("Short history.")], [PROFILE, RECENT]
        counts = Counter(view.case.category(behaviour.item_id) for behaviour in shown)
        if max(counts.values()) / len(shown) < self.options.scattered:
            return [Thinking("Scattered history.")], list(EXPERTS)
        return [Thinking("Steady history.")], [PROFILE, HISTORICAL, RECENT]

    # ---------------------------------------------------------------------------------------------------- experts

    def _profile(self, view: View) -> tuple[list[Block], Any]:
        """Return the two leading categories; in haste, the last interaction's category comes first."""
        shown = self._shown(view)
        leading = _leading(view.case, shown)
        if view.suggestion:
            return [Thinking("Counted again.")], leading
        if shown and self._draw(view, "haste") < self.options.haste:
            last = view.case.category(shown[-1].item_id)
            leading = list(dict.fromkeys([last, *leading]))[:2]
        return self._ask(view, "Ask similar users.", "UserCF", view.case.user_id), leading

    def _historical(self, view: View) -> tuple[list[Block], Any]:
        """Ask for the whole shown history in one call."""
        shown = self._shown(view)
        if not shown:
            return [Thinking("No history.")], []
        asked = dict.fromkeys(entry.item_id for entry in reversed(shown))
        named = [HISTORY] if view.case.slots else list(asked)
        return self._ask(view, "Ask for the whole history.", "ItemCF", named), _leading(view.case, shown)[:1]

    def _recent(self, view: View) -> tuple[list[Block], Any]:
        shown = self._shown(view)
        if not shown:
            return [Thinking("No history.")], []
        last = shown[-1].item_id
        return self._ask(view, f"Recent {last}.", "ItemCF", [last]), [view.case.category(last)]

    def _divergence(self, view: View) -> tuple[list[Block], Any]:
        """Return the category of the latest item outside the leading one, and those of its neighbours."""
        shown = self._shown(view)
        leading = _leading(view.case, shown)[:1]
        others = [b.item_id for b in shown[:-1] if view.case.category(b.item_id) not in leading]
        if not others:
            return [Thinking("Nothing to spread to.")], []
        blocks = self._ask(view, f"Spread {others[-1]}.", "ItemCF", [others[-1]])
        listed = self._listed(view.case, blocks)
        return blocks, list(dict.fromkeys([view.case.category(i) for i in (others[-1], *listed)]))[:2]

    def _ask(self, view: View, words: str, tool: str, asked: str | list[str]) -> list[Block]:
        """Return a thought, one call, its response and what it points to; only the thought without tools."""
        if view.tools is None:
            return [Thinking(words)]
        call = ToolCall(tool, {ARGUMENT[tool]: asked})
        response = Response(view.tools.call(call.name, call.arguments).text)
        listed = self._listed(view.case, [response])
        said = Thinking(f"Points to {listed[0]}." if listed else "Points nowhere.")
        return [Thinking(words), call, response, said]

    # ------------------------------------------------------------------------------------------ reflector and ranker

    def _reflect(self, view: View) -> tuple[list[Block], Any]:
        """Check the profile against the counts, and name the trusted signal."""
        trust = Thinking(f"Trust: {TRUST[self._trusted(view)]}.")
        profile = view.latest(PROFILE)
        leading = _leading(view.case, self._shown(view))
        if profile is None or profile.value[:1] == leading[:1]:
            return [trust], {"correct": "yes"}
        fault = {"agent_name": PROFILE, "suggestion": f"Lead with {leading[0]}."}
        return [trust], {"correct": "no", "problematic_agent": [fault]}

    def _rank(self, view: View) -> tuple[list[Block], Any]:
        """Rank the trusted signal's list first, then the other signals', then the rest in the order of the task."""
        trusted = self._trusted(view)
        lists = self._evidence(view)
        if trusted == "category":
            ranked = self._by_category(view)
        else:
            ranked = [*lists.pop(trusted), *(item for listed in lists.values() for item in listed)]
        order = dict.fromkeys([*ranked, *view.case.candidates])
        return [Thinking(f"Rank by {TRUST[trusted]}.")], list(order)[: view.ranked]

    def _rank_by_notes(self, view: View) -> tuple[list[Block], Any]:
        why, order = rank_by_notes(view.case, self._shown(view), self._popular or {}, self.options.popular)
        return [Thinking(why)], order[: view.ranked]

    def _rewrite(self, view: View) -> tuple[list[Block], Any]:
        assert view.played is not None
        why, text = rewrite_notes(view.case, view.played, view.predicted)
        return [Thinking(why)], {"preferences": text}

    def _by_category(self, view: View) -> list[str]:
        profile = view.latest(PROFILE)
        liked = profile.value if profile else _leading(view.case, self._shown(view))
        place = {category: rank for rank, category in enumerate(liked)}
        return sorted(view.case.candidates, key=lambda item: place.get(view.case.category(item), len(place)))

    # ------------------------------------------------------------------------------------------------------ shared

    def _trusted(self, view: View) -> str:
        """Draw the strategy of this run by weight among those that have evidence."""
        having = {name for name, listed in self._evidence(view).items() if listed} | {"category"}
        weights = {name: weight for name, weight in self.options.strategies.items() if name in having and weight > 0}
        if not weights:
            return next((name for name in TRUST if name in having and name != "category"), "category")
        point = self._draw(view, "trust") * sum(weights.values())
        for name, weight in weights.items():
            point -= weight
            if point < 0:
                return name
        return name

    def _evidence(self, view: View) -> dict[str, list[str]]:
        """Return strategy -> candidates in the latest answer, best first."""
        lists: dict[str, list[str]] = {}
        for agent, strategy in _BROUGHT.items():
            for step in view.done:  # a re-run without a call leaves the evidence of the first run standing
                if step.agent == agent and (listed := self._listed(view.case, step.blocks)):
                    lists[strategy] = listed
        return lists

    def _listed(self, case: Case, blocks: Sequence[Block]) -> list[str]:
        """Return the candidates named in the responses, in order; only the text is read, as by the student."""
        known = set(case.candidates)
        found: list[str] = []
        for block in blocks:
            if isinstance(block, Response) and AMONG in block.text:
                listed = decode(block.text.rpartition(AMONG)[2])[0]
                found += [item for item in listed if item in known] if isinstance(listed, list) else []
        return list(dict.fromkeys(found))

    def _shown(self, view: View) -> tuple[Behaviour, ...]:
        return view.case.history[-self.options.window :]

    def _draw(self, view: View, purpose: str) -> float:
        """Return a number in [0, 1) that depends on seed, purpose, task and pass alone."""
        words = f"{self.options.seed}\n{purpose}\n{view.case.task_id}\n{view.sample}".encode()
        return int.from_bytes(hashlib.blake2b(words, digest_size=7).digest(), "big") / 2**56


def _leading(case: Case, shown: Sequence[Behaviour]) -> list[str]:
    """Return the two most frequent categories, the more recent of equals first."""
    counts: Counter[str] = Counter()
    latest: dict[str, int] = {}
    for place, behaviour in enumerate(shown):
        category = case.category(behaviour.item_id)
        counts[category] += 1
        latest[category] = place
    return sorted(counts, key=lambda category: (-counts[category], -latest[category]))[:2]
