"""The vocabulary of a source: what an item is called, and which of its details are shown."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any, NamedTuple

from star_rl.prompts.words import one_line, value_of
from star_rl.records import Item


class Detail(NamedTuple):
    """A detail of an item: its word in a prompt, what it means, and the keys of ``items.attributes`` that hold it."""

    word: str
    meaning: str
    keys: tuple[str, ...]


_AVERAGE = Detail("average", "mean rating of all users, up to 5", ("average_rating", "stars"))
_RATINGS = Detail("ratings", "how many users rated it", ("ratings_count", "rating_number"))
_YEAR = Detail("year", "year of release", ("year", "release_year", "publication_year"))


@dataclass(frozen=True, slots=True)
class Flavour:
    """The vocabulary of one kind of item; ``details`` in the order in which a prompt shows them."""

    name: str
    item: str
    items: str
    did: str
    domain: str
    details: tuple[Detail, ...]
    tastes: str = "kinds, makers and occasions"

    @property
    def words(self) -> dict[str, str]:
        """Return what a prompt template is filled with."""
        return {"item": self.item, "items": self.items, "did": self.did, "domain": self.domain}

    @property
    def key(self) -> str:
        """Return what the parts of a line mean, for the head of a prompt."""
        meanings = "; ".join(f"{detail.word}: {detail.meaning}" for detail in self.details)
        return (
            f"How to read a line about a {self.item}: parts are divided by |. First comes the time (UTC) in a record, "
            f"then the {self.item}'s id, its title and its categories, then its details. {meanings}; rated: this "
            "user's own rating; said: this user's own review, perhaps cut. Unknown parts are left out, and the older "
            "entries of a long record have a title and a rating alone."
        )


FLAVOURS = {
    "books": Flavour(
        "books",
        "book",
        "books",
        "read",
        "an online reading community",
        (
            Detail("by", "authors, by name or by author id", ("authors", "author_ids")),
            _AVERAGE,
            _RATINGS,
            Detail("reviews", "how many users wrote about it", ("text_reviews_count",)),
            _YEAR,
        ),
    ),
    "products": Flavour(
        "products",
        "product",
        "products",
        "bought",
        "an online shop",
        (
            Detail("brand", "maker or shop", ("brand", "store")),
            Detail("price", "price", ("price",)),
            _AVERAGE,
            _RATINGS,
        ),
    ),
    "businesses": Flavour(
        "businesses",
        "place",
        "places",
        "visited",
        "a guide to local businesses",
        (
            Detail("in", "city", ("city",)),
            Detail("stars", "mean rating of all users, up to 5", ("stars", "average_rating")),
            Detail("reviews", "how many users reviewed it", ("review_count",)),
        ),
    ),
    "films": Flavour(
        "films", "film", "films", "watched", "a film service", (_YEAR,), "genres, directors, periods and moods"
    ),
    "music": Flavour(
        "music",
        "album",
        "albums",
        "bought",
        "a music shop",
        (Detail("by", "artist or label", ("brand", "store")), Detail("price", "price", ("price",)), _AVERAGE, _RATINGS),
        "styles, artists, periods and moods",
    ),
    "generic": Flavour("generic", "item", "items", "chose", "a recommendation service", (_YEAR, _AVERAGE, _RATINGS)),
}
#: Part of a source's name -> flavour; the first match counts.
_OF_SOURCE = (
    ("amazon-cds", "music"),
    ("amazon", "products"),
    ("goodreads", "books"),
    ("book", "books"),
    ("music", "music"),
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
    """Return ``title | categories | details`` of an item on one line, each cut to ``characters``; unknown ones are
    left out. Below 40 characters the title stands alone."""
    if item is None:
        return "(no description)"
    parts = [_part(item.title, characters) or "(no title)"]
    if characters < 40:
        return parts[0]
    if categories := _part(", ".join(item.categories), characters):
        parts.append(categories)
    for detail in flavour.details:
        if value := detail_of(item, detail, min(characters, 60)):
            parts.append(f"{detail.word} {value}")
    return " | ".join(parts)


def detail_of(item: Item, detail: Detail, characters: int = 60) -> str:
    """Return a detail of an item as a part of a line; empty if it is unknown."""
    values = (value_of(_decoded(item.attributes.get(key)), characters) for key in detail.keys)
    return next(filter(None, values), "").replace("|", "/")


def _part(text: str, characters: int) -> str:
    """Foreign text as one part of a line: a bar in it would begin another."""
    return one_line(text, characters).replace("|", "/")


def _decoded(value: Any) -> Any:
    """A list that a file holds as text, such as ``[{'author_id': '1', 'role': ''}]``; other values as they are."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]") and len(value) < 4000:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return value
