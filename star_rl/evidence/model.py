"""Neighbours and the structured evidence that is made of them (paper, section 3.3)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from star_rl.errors import StarError
from star_rl.records import Item, ItemTable

USER_CF, ITEM_CF = "UserCF", "ItemCF"
TOOLS = (USER_CF, ITEM_CF)

#: Most representative items of one category (paper, section 3.3).
REPRESENTATIVES = 5


class Neighbour(NamedTuple):
    """One neighbour: for ItemCF an item chosen together with the key, for UserCF an item that similar users like.

    ``support`` counts the people behind it: users who chose both items, or similar users who chose the item.
    """

    id: str
    weight: float
    support: int = 0


@dataclass(frozen=True, slots=True)
class Category:
    """One group of neighbours.

    ``summary`` is one line, ``item_ids`` holds up to five neighbours of the group, strongest first, ``why`` (UserCF
    only) says why the group fits the user. ``count`` neighbours belong to it, with ``support`` people behind them.
    """

    name: str
    summary: str
    item_ids: tuple[str, ...]
    why: str = ""
    count: int = 0
    support: int = 0


@dataclass(frozen=True, slots=True)
class Words:
    """A verbaliser's answer: the tool's text and the categories behind it, strongest first.

    ``outcome`` is ``template``, ``llm``, ``repaired`` (valid after a second call) or ``fallback`` (the template's).
    """

    text: str
    categories: tuple[Category, ...]
    outcome: str = "template"

    def as_json(self) -> dict[str, Any]:
        """Return the structured evidence as the store keeps it."""
        names = Category.__slots__
        return {
            "categories": [
                {name: value for name in names if (value := getattr(category, name)) or name != "why"}
                for category in self.categories
            ]
        }


def categories_of(structured: Any) -> tuple[Category, ...]:
    """Return the categories of stored evidence (:meth:`Words.as_json`); none of evidence in another form."""
    rows = structured.get("categories", ()) if isinstance(structured, dict) else ()
    return tuple(Category(**{**row, "item_ids": tuple(row["item_ids"])}) for row in rows)


class Catalogue:
    """Titles and categories of the items, and how common each category is.

    Args:
        items: by id (:func:`star_rl.records.items_from`), or a table if there are many.
    """

    def __init__(self, items: Mapping[str, Item]) -> None:
        self.items = items
        # Items share few lists of categories; one tuple of each is kept, with no name twice.
        shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        frequency: dict[str, int] = {}
        self._titles: dict[str, str] = {}
        self._categories: dict[str, tuple[str, ...]] = {}
        described = (
            items.described()
            if isinstance(items, ItemTable)
            else ((name, item.title, item.categories) for name, item in items.items())
        )
        for item_id, title, categories in described:
            distinct = shared.get(categories)
            if distinct is None:
                distinct = shared[categories] = tuple(dict.fromkeys(map(sys.intern, categories)))
            self._titles[item_id], self._categories[item_id] = title, distinct
            for category in distinct:
                frequency[category] = frequency.get(category, 0) + 1
        total = max(1, len(items))
        #: Log of each category's inverse share of the catalogue, at least 0.05.
        self.telling = {name: 0.05 + math.log(total / count) for name, count in frequency.items()}

    def title(self, item_id: str) -> str:
        return self._titles.get(item_id, "")

    def categories(self, item_id: str) -> tuple[str, ...]:
        """Return the distinct categories of an item, in its order."""
        return self._categories.get(item_id, ())


def checked(tool: str, neighbours: Iterable[tuple[str, float] | tuple[str, float, int]]) -> list[Neighbour]:
    """Return neighbours as :class:`Neighbour`; check the tool's name."""
    if tool not in TOOLS:
        raise StarError(f"there is no tool {tool!r}", f"choose one of {', '.join(TOOLS)}")
    return [row if isinstance(row, Neighbour) else Neighbour(*row) for row in neighbours]
