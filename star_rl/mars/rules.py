"""The rule backend: agents played from counts and evidence, without a language model.

Each expert reads what the student will read, the history and the tools' answers as text. It writes short constant
phrases that a student of a million parameters can learn. Random choices (which signal to trust, whether the profile is
written in haste) are a hash of seed, task and pass, so they repeat in every process.

The strategies differ in quality on purpose: ``category`` ignores the evidence, a habit that reinforcement learning can
drop.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field
from functools import lru_cache
from typing import Any

from star_rl.errors import StarError
from star_rl.mars.agents import DIVERGENCE, HISTORICAL, PROFILE, RECENT, Agent, Step, View
from star_rl.options import Number, Share, Size, Whole, options
from star_rl.prompts import Behaviour, Case
from star_rl.trajectory import EXPERTS, Response, Thinking, ToolCall, json_block
from star_rl.trajectory.model import Block

#: Strategy -> the name of the signal it trusts.
TRUST = {
    "users": "similar users",
    "anchor": "anchor item",
    "recent": "recent item",
    "category": "category match",
}
#: Expert -> the strategy whose evidence it brings.
_BROUGHT = {PROFILE: "users", HISTORICAL: "anchor", RECENT: "recent", DIVERGENCE: "spread"}
_LENS = "Among the candidates:"
_WORD = re.compile(r"[^\s,;|]+")

#: (tool, id) -> how much evidence there is; used to choose the anchor.
Strength = Callable[[Case, str], float]


@options
class RuleOptions:
    """Options of the rules. All affect results.

    Attributes:
        strategies: weight of each strategy of :data:`TRUST`; those without evidence in a case are skipped.
        haste: share of runs whose profile uses the last interaction alone, for the reflector to find.
        window: latest interactions that the rules read; show the student as many.
        scattered: with a top category below this share of the window, the planner also sends
            Interest_Divergence_Reasoning.
        seed: of the hash.
    """

    strategies: Mapping[str, Number] = field(
        default_factory=lambda: {"users": 0.22, "anchor": 0.22, "recent": 0.22, "category": 0.34}
    )
    haste: Share = 0.2
    window: Size = 8
    scattered: Share = 0.2
    seed: Whole = 0

    def __post_init__(self) -> None:
        for name in self.strategies:
            if name not in TRUST:
                raise StarError(f"strategies.{name} is not known", f"choose among {', '.join(TRUST)}")
        if not sum(self.strategies.values()) > 0:
            raise StarError("strategies have weights that sum to 0", "give at least one a weight above 0")


class RuleBackend:
    """The agents played by rules.

    Args:
        options: see :class:`RuleOptions`.
        strength: evidence behind a history item, for the anchor; without it the best rated item is the anchor.
    """

    def __init__(self, options: RuleOptions | None = None, strength: Strength | None = None) -> None:
        self.options = options or RuleOptions()
        self.strength = strength
        self._act = {
            "Planner": self._plan,
            PROFILE: self._profile,
            HISTORICAL: self._historical,
            RECENT: self._recent,
            DIVERGENCE: self._divergence,
            "Reflector": self._reflect,
            "Ranker": self._rank,
        }

    @property
    def describe(self) -> dict[str, Any]:
        options = {**asdict(self.options), "strategies": dict(self.options.strategies)}
        return {"backend": "rules", "anchor": "evidence" if self.strength else "rating", **options}

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
        return self._ask(view, "Ask similar users.", "UserCF", "user_id", view.case.user_id), leading

    def _historical(self, view: View) -> tuple[list[Block], Any]:
        anchor = self._anchor(view)
        if anchor is None:
            return [Thinking("No history.")], []
        blocks = self._ask(view, f"Anchor {anchor.item_id}.", "ItemCF", "item_id", anchor.item_id)
        return blocks, [view.case.category(anchor.item_id)]

    def _recent(self, view: View) -> tuple[list[Block], Any]:
        shown = self._shown(view)
        if not shown:
            return [Thinking("No history.")], []
        last = shown[-1].item_id
        return self._ask(view, f"Recent {last}.", "ItemCF", "item_id", last), [view.case.category(last)]

    def _divergence(self, view: View) -> tuple[list[Block], Any]:
        """Return the category of the latest item outside the leading one, and those of its neighbours."""
        shown = self._shown(view)
        leading = _leading(view.case, shown)[:1]
        others = [b.item_id for b in shown[:-1] if view.case.category(b.item_id) not in leading]
        if not others:
            return [Thinking("Nothing to spread to.")], []
        blocks = self._ask(view, f"Spread {others[-1]}.", "ItemCF", "item_id", others[-1])
        listed = self._listed(view.case, blocks)
        return blocks, list(dict.fromkeys([view.case.category(i) for i in (others[-1], *listed)]))[:2]

    def _ask(self, view: View, words: str, tool: str, argument: str, key: str) -> list[Block]:
        """Return a thought, one call, its response and what it points to; only the thought without tools."""
        if view.tools is None:
            return [Thinking(words)]
        call = ToolCall(tool, {argument: key})
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
            if isinstance(block, Response):
                text = block.text.rpartition(_LENS)[2]
                found += [word for match in _WORD.finditer(text) if (word := match.group().rstrip(".")) in known]
        return list(dict.fromkeys(found))

    def _anchor(self, view: View) -> Behaviour | None:
        """Return the item with most evidence, or the best rated; the later of equals; not the last if possible."""
        shown = self._shown(view)
        earlier = list(enumerate(shown[:-1] or shown))
        if not earlier:
            return None
        if self.strength is not None:
            strength = self.strength
            return max(earlier, key=lambda pair: (strength(view.case, pair[1].item_id), pair[0]))[1]
        return max(earlier, key=lambda pair: (pair[1].rating if pair[1].rating is not None else 0.0, pair[0]))[1]

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


def strength_of(store: Any) -> Strength:
    """Return a function that sums the weights of an item's stored neighbours among the candidates of a case.

    The latest 4,096 items are cached: a store reads an item's neighbours from its file each time.
    """

    @lru_cache(maxsize=4096)
    def weights(item_id: str) -> dict[str, float]:
        return {item: float(weight) for item, weight in store.neighbours("ItemCF", item_id)}

    def strength(case: Case, item_id: str) -> float:
        known = weights(item_id)
        return sum(known.get(candidate, 0.0) for candidate in case.candidates)

    return strength
