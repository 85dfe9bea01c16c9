"""The template verbaliser: group neighbours by category and describe them by counts. Deterministic, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from star_rl.errors import StarError
from star_rl.evidence.model import (
    ITEM_CF,
    REPRESENTATIVES,
    Catalogue,
    Category,
    Evidence,
    Neighbour,
    Words,
    checked,
)
from star_rl.evidence.words import BUDGETS, SIZES, Size, approximate_tokens, in_words

#: Name of the group of neighbours that share no category.
OTHER = "Other"


@dataclass(frozen=True, slots=True)
class Template:
    """Put neighbours into words by rules.

    Args:
        catalogue: the items.
        size: ``full`` or ``short`` (:func:`star_rl.evidence.words.in_words`).
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
    count: Callable[[str], int] = approximate_tokens

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise StarError(f"there is no size {self.size!r} of evidence", f"choose one of {', '.join(SIZES)}")
        if self.categories < 1 or (self.budget is not None and self.budget < 1):
            raise StarError("an evidence text needs a budget and a number of groups of at least 1", "raise the value")

    def about(self) -> dict[str, Any]:
        """Return what distinguishes these words from others, for the store's manifest."""
        budget = BUDGETS[self.size] if self.budget is None else self.budget
        return {"verbaliser": "template", "size": self.size, "budget": budget, "categories": self.categories}

    def evidence(
        self,
        tool: str,
        key: str,
        neighbours: Iterable[tuple[str, float] | tuple[str, float, int]],
        history: Sequence[str] = (),
    ) -> Evidence:
        """Return the neighbours in groups.

        Args:
            tool: ``UserCF`` or ``ItemCF``.
            key: the user or the item.
            neighbours: (item id, weight[, support]), strongest first.
            history: items of the user that were visible, for the reasons (UserCF only).
        """
        rows = checked(tool, neighbours)
        groups = _groups(rows, self.catalogue, self.categories)
        known = _counts(history, self.catalogue) if tool != ITEM_CF else {}
        past = len(history)
        categories = []
        for name, members in groups:
            why = "" if tool == ITEM_CF else _reason(name, known.get(name, 0), past, members)
            categories.append(
                Category(
                    name,
                    _summary(tool, members, len(rows)),
                    tuple(row.id for row in members[:REPRESENTATIVES]),
                    why,
                    len(members),
                    sum(row.support for row in members),
                )
            )
        return Evidence(tool, key, tuple(categories), len(rows))

    def __call__(
        self,
        tool: str,
        key: str,
        neighbours: Iterable[tuple[str, float] | tuple[str, float, int]],
        history: Sequence[str] = (),
    ) -> Words:
        """Return text and evidence of one key; arguments as in :meth:`evidence`."""
        evidence = self.evidence(tool, key, neighbours, history)
        return Words(in_words(evidence, self.catalogue, self.size, self.budget, self.count), evidence)


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
        if len(places) == 1:
            return True, -weights[places[0]] * catalogue.telling(name), name
        return False, -sum([weights[place] for place in places]) * catalogue.telling(name), name

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


def _counts(history: Sequence[str], catalogue: Catalogue) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item_id in history:
        for category in catalogue.categories(item_id):
            counts[category] = counts.get(category, 0) + 1
    return counts


def _summary(tool: str, members: list[Neighbour], total: int) -> str:
    support = sum(row.support for row in members)
    what = "related items" if tool == ITEM_CF else "items liked by similar users"
    line = f"{len(members)} of {total} {what}"
    if support:
        line += f", {support} shared choices" if tool == ITEM_CF else f", {support} votes"
    return line + "."


def _reason(name: str, seen: int, past: int, members: list[Neighbour]) -> str:
    if seen:
        return f"of this kind are {seen} of the user's {past} past choices."
    best = max((row.support for row in members), default=0)
    backed = f"{best} similar users agree on its first item" if best else "similar users favour it"
    return f"new to this user, but {backed}."
