"""The template verbaliser: group neighbours by category and describe them by counts. Deterministic, without a model.

Titles, category names and ids are untrusted: each is put on one line, shortened and escaped
(:func:`star_rl.trajectory.neutral`), and so is the whole text. No title can end a tool's answer or forge a phase.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from star_rl.errors import StarError
from star_rl.evidence.model import ITEM_CF, REPRESENTATIVES, USER_CF, Catalogue, Category, Neighbour, Words, checked
from star_rl.prompts.words import estimate_tokens
from star_rl.trajectory import neutral

#: ``full``: a paragraph a group; ``short``: one line of about ten words, for a tiny student.
Size = Literal["full", "short"]
#: Budgets in tokens when none is given.
BUDGETS: dict[Size, int] = {"full": 512, "short": 48}
#: Name of the group of neighbours that share no category.
OTHER = "Other"
_NONE_FOUND = {
    USER_CF: "No users with a similar history were found, so there is no evidence for this user.",
    ITEM_CF: "No items are chosen together with this one, so there is no evidence for it.",
}
_NONE_OF_MANY = "No items are chosen together with these, so there is no evidence for them."
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
#: Shows an item: its id or name, and its title in at most so many characters; empty if it has neither.
_Item: TypeAlias = Callable[..., str]
#: Of the long text: (categories, items of each, characters of a title), from the most to the least detail.
_LEVELS = (
    *((9, 5, 80), (9, 5, 40), (6, 5, 40), (6, 3, 40), (4, 3, 40), (4, 2, 28)),
    *((3, 2, 24), (3, 1, 24), (2, 1, 24), (2, 1, 0), (1, 1, 0), (1, 0, 0)),
)
#: Of the short text: (categories, items of all).
_SHORT_LEVELS = ((2, 5), (2, 3), (2, 1), (1, 1), (1, 0))


@dataclass(frozen=True, slots=True)
class Template:
    """Put neighbours into words by rules.

    Args:
        catalogue: the items.
        size: see :data:`Size`.
        budget: most tokens of a text; by default 512 (full) or 48 (short).
        categories: most groups.
        count: counts the tokens of a text; an estimate by default.

    Raises:
        StarError: an unknown size, or a budget or number of groups below 1.
    """

    catalogue: Catalogue
    size: Size = "full"
    budget: int | None = None
    categories: int = 5
    count: Callable[[str], int] = estimate_tokens

    def __post_init__(self) -> None:
        if self.size not in BUDGETS:
            raise StarError(f"there is no size {self.size!r} of evidence", f"choose one of {', '.join(BUDGETS)}")
        if self.categories < 1 or (self.budget is not None and self.budget < 1):
            raise StarError("an evidence text needs a budget and a number of groups of at least 1", "raise the value")

    @property
    def _budget(self) -> int:
        return BUDGETS[self.size] if self.budget is None else self.budget

    def about(self) -> dict[str, Any]:
        """Return what distinguishes these words from others, for the store's manifest."""
        return {
            "verbaliser": "template",
            "size": self.size,
            "budget": self._budget,
            "categories": self.categories,
        }

    def __call__(
        self,
        tool: str,
        key: str,
        neighbours: Iterable[tuple[str, float] | tuple[str, float, int]],
        history: Sequence[str] = (),
    ) -> Words:
        """Return text and categories of one key.

        Args:
            tool: ``UserCF`` or ``ItemCF``.
            key: the user or the item.
            neighbours: (item id, weight[, support]), strongest first.
            history: items of the user that were visible, for the reasons (UserCF only).
        """
        rows = checked(tool, neighbours)
        seen = Counter(category for item_id in history for category in self.catalogue.categories(item_id))
        categories = []
        for name, members in _groups(rows, self.catalogue, self.categories):
            ids = tuple(row.id for row in members[:REPRESENTATIVES])
            support = sum(row.support for row in members)
            why = _reason(seen[name], len(history), members) if tool == USER_CF else ""
            summary = summary_of(tool, len(members), len(rows), support)
            categories.append(Category(name, summary, ids, why, len(members), support))
        return Words(self.text(tool, categories), tuple(categories))

    def text(self, tool: str, categories: Sequence[Category]) -> str:
        """Return the tool's answer about one key."""
        return evidence_text(tool, categories, self.catalogue.title, self.size, self._budget, count=self.count)


def evidence_text(
    tool: str,
    categories: Sequence[Category],
    title: Callable[[str], str],
    size: Size,
    budget: int,
    *,
    keys: int = 1,
    named: Callable[[str], str | None] | None = None,
    count: Callable[[str], int] = estimate_tokens,
) -> str:
    """Return a tool's answer. Detail is dropped until it fits the budget, and at last it is cut.

    Args:
        tool: ``UserCF`` or ``ItemCF``.
        categories: strongest first.
        title: looks up an item's title; empty if it has none.
        size, budget, count: as of :class:`Template`.
        keys: items (or users) that the answer is about.
        named: an id's name, which stands in its place; an item without a name is shown by its title alone.
    """

    def item(item_id: str, longest: int = 0) -> str:
        name = clean(item_id if named is None else named(item_id) or "")
        titled = clean(title(item_id), longest) if longest else ""
        return f'{name} "{titled}"'.lstrip() if titled else name

    drafts: Iterable[str]
    if not categories:
        drafts = [_NONE_FOUND[tool] if keys == 1 else _NONE_OF_MANY]
    elif size == "short":
        drafts = (_short(categories[:groups], item, items, keys) for groups, items in _SHORT_LEVELS)
    else:
        levels = dict.fromkeys((min(groups, len(categories)), *level) for groups, *level in _LEVELS)  # each once
        drafts = (_full(tool, categories[:groups], item, keys, *level) for groups, *level in levels)
    text = ""
    for text in drafts:
        if count(text) <= budget:
            return text
    low, high = 0, len(text) - 1
    while low < high:  # the longest prefix that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(text[:middle]) <= budget else (low, middle - 1)
    return text[:low].rstrip()


@lru_cache(maxsize=1 << 16)
def clean(text: str, longest: int = 200) -> str:
    """Return untrusted text on one line, shortened, without control characters, every tag escaped."""
    line = neutral(" ".join(_CONTROL.sub(" ", text).split()))
    return line if len(line) <= longest else line[: max(0, longest - 1)].rstrip() + "…"


def _groups(rows: list[Neighbour], catalogue: Catalogue, most: int) -> list[tuple[str, list[Neighbour]]]:
    """Split neighbours into groups, each under one category, the largest weight first.

    Greedy: the category with the largest score takes all its neighbours that are not placed yet. The score is their
    weight times the log of the category's inverse share of the catalogue, so a category of nearly all items comes last.
    """
    kinds = [catalogue.categories(row.id) for row in rows]
    weights = [row.weight for row in rows]
    members: dict[str, list[int]] = {}
    for place, names in enumerate(kinds):
        for name in names:
            members.setdefault(name, []).append(place)

    def rank(name: str) -> tuple[bool, float, str]:
        # Groups of one item come last: a single item says nothing about a taste.
        places = members[name]
        return len(places) == 1, -sum([weights[place] for place in places]) * catalogue.telling[name], name

    ranks = {name: rank(name) for name in members}
    free = set(range(len(rows)))
    groups: list[tuple[str, list[Neighbour]]] = []
    while ranks and len(groups) < most:
        name = min(ranks.values())[2]
        taken = members[name]
        groups.append((name, [rows[place] for place in taken]))
        free.difference_update(taken)
        for other in {other: None for place in taken for other in kinds[place]}:
            members[other] = [place for place in members[other] if place in free]
            if members[other]:
                ranks[other] = rank(other)
            else:
                del ranks[other]
    if free and len(groups) < most:
        groups.append((OTHER, [rows[place] for place in sorted(free)]))
    return groups


def summary_of(tool: str, count: int, total: int, support: int) -> str:
    """Return what a category holds: ``count`` of ``total`` neighbours."""
    what, votes = ("related items", "shared choices") if tool == ITEM_CF else ("items liked by similar users", "votes")
    return f"{count} of {total} {what}{f', {support} {votes}' if support else ''}."


def _reason(seen: int, past: int, members: list[Neighbour]) -> str:
    if seen:
        return f"of this kind are {seen} of the user's {past} past choices."
    best = max((row.support for row in members), default=0)
    backed = f"{best} similar users agree on its first item" if best else "similar users favour it"
    return f"new to this user, but {backed}."


def _full(tool: str, categories: Sequence[Category], item: _Item, keys: int, items: int, longest: int) -> str:
    which = "this item" if keys == 1 else f"any of these {keys} items"
    lines = [f"Also chosen by users {'with a similar history' if tool == USER_CF else f'who chose {which}'}:"]
    for number, category in enumerate(categories, 1):
        why = f" Why it fits: {clean(category.why)}" if category.why and tool == USER_CF else ""
        lines.append(f"{number}. {clean(category.name, 60)}: {clean(category.summary)}{why}")
        if shown := [words for item_id in category.item_ids[:items] if (words := item(item_id, longest))]:
            lines.append(f"   items: {'; '.join(shown)}")
    return neutral("\n".join(lines))


def _short(categories: Sequence[Category], item: _Item, items: int, keys: int) -> str:
    """Return one line: the groups with their counts, then ids in proportion to the counts, the strongest first."""
    head = ", ".join(f"{clean(category.name, 24)} {category.count}" for category in categories)
    head = head if keys == 1 else f"{keys} items: {head}"
    total = sum(category.count for category in categories) or 1
    ids: list[str] = []
    for number, category in enumerate(categories, 1):
        left = items - len(ids)
        share = left if number == len(categories) else max(1, round(items * category.count / total)) if items else 0
        shown = [name for item_id in category.item_ids if (name := clean(item(item_id), 64))]
        ids += shown[: max(0, min(share, left))]
    return neutral(f"{head}: {' '.join(ids)}" if ids else head)
