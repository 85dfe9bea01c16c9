"""The vocabulary of a source: what an item is called, and which attributes are shown."""

from __future__ import annotations

from dataclasses import dataclass

from star_rl.prompts.words import one_line, value_of
from star_rl.records import Item


@dataclass(frozen=True, slots=True)
class Flavour:
    """The vocabulary of one kind of item.

    ``attributes`` maps a key of ``items.attributes`` to the word that stands before its value in a prompt.
    """

    name: str
    item: str
    items: str
    did: str
    domain: str
    attributes: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> dict[str, str]:
        """Return what a prompt template is filled with."""
        return {"item": self.item, "items": self.items, "did": self.did, "domain": self.domain}


FLAVOURS = {
    "books": Flavour(
        "books",
        "book",
        "books",
        "read",
        "an online reading community",
        (("authors", "by"), ("publication_year", "year")),
    ),
    "products": Flavour(
        "products", "product", "products", "bought", "an online shop", (("store", "brand"), ("price", "price"))
    ),
    "businesses": Flavour(
        "businesses", "place", "places", "visited", "a guide to local businesses", (("city", "in"), ("stars", "stars"))
    ),
    "films": Flavour(
        "films", "film", "films", "watched", "a film service", (("year", "year"), ("release_year", "year"))
    ),
    "generic": Flavour("generic", "item", "items", "chose", "a recommendation service"),
}
#: Part of a source's name -> flavour; the first match counts.
_OF_SOURCE = (
    ("goodreads", "books"),
    ("book", "books"),
    ("amazon", "products"),
    ("product", "products"),
    ("yelp", "businesses"),
    ("movielens", "films"),
    ("ml-", "films"),
    ("film", "films"),
    ("movie", "films"),
)


def flavour_of(source: str) -> Flavour:
    """Return the flavour of a source by its name; ``generic`` if unknown."""
    lowered = source.lower()
    return FLAVOURS[next((name for part, name in _OF_SOURCE if part in lowered), "generic")]


def described(item: Item | None, flavour: Flavour, characters: int = 120) -> str:
    """Return ``title | categories | attributes`` of an item on one line, each field cut to ``characters``."""
    if item is None:
        return "(no description)"
    parts = [one_line(item.title, characters) or "(no title)"]
    if item.categories:
        parts.append(one_line(", ".join(item.categories), characters))
    for key, word in flavour.attributes:
        if value := value_of(item.attributes.get(key), 60):
            parts.append(f"{word} {value}")
    return " | ".join(parts)
