"""A seeded world whose next item co-occurrence can predict and popularity cannot.

Items belong to a category and to a series of five within it. A user draws a taste over categories; each next item
continues a series of a recent item with probability ``p_series``, else comes from a category of the user's taste by a
long-tailed popularity. Good for showing that the chain learns; no claim about people.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from star_rl.errors import StarError
from star_rl.options import Count, Number, Positive, Share, Size, Whole, options, read_options
from star_rl.progress import Progress
from star_rl.sources.options import Common

CATEGORIES = (
    "Mystery", "Cooking", "Space", "History", "Travel", "Robots", "Gardens", "Oceans", "Music", "Castles", "Sports",
    "Fables", "Trains", "Poetry", "Deserts", "Painting", "Dragons", "Chess", "Mountains", "Theatre", "Pirates", "Birds",
    "Clocks", "Forests",
)  # fmt: skip
FIRST = (
    "Amber", "Silent", "Golden", "Broken", "Crimson", "Hidden", "Winter", "Hollow", "Distant", "Painted", "Iron",
    "Velvet", "Restless", "Copper", "Misty", "Scarlet", "Wandering", "Crystal", "Bitter", "Luminous",
)  # fmt: skip
SECOND = (
    "Harbor", "Lantern", "Orchard", "Compass", "Mirror", "Valley", "Signal", "Garden", "Archive", "Bridge", "River",
    "Tower", "Letter", "Engine", "Island", "Feather", "Window", "Meadow", "Crown", "Voyage",
)  # fmt: skip


@options
class SyntheticOptions(Common):
    users: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 2000
    items: Whole = 300
    categories: Annotated[int, Field(ge=1, le=len(CATEGORIES), strict=True)] = 12
    #: Items of one series.
    series: Size = 5
    #: Fewest and most interactions of a user.
    shortest: Size = 18
    longest: Size = 30
    #: Probability that the next item continues a series.
    p_series: Share = 0.45
    #: Exponent of the popularity's tail.
    tail: Number = 0.35
    #: Concentration of a user's taste over the categories; smaller is narrower.
    taste: Positive = 0.5
    seed: Count = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("items", max(40, self.categories), 100_000),
            ("longest", self.shortest, self.items // 2),
        ):
            if not least <= getattr(self, name) <= most:
                raise StarError(f"{name}={getattr(self, name)} is out of range", f"give {least} to {most}")


def write(root: Path | None, out_dir: Path, options: Mapping[str, Any], progress: Progress | None) -> dict[str, Any]:
    """Write the tables of a synthetic world; see :class:`SyntheticOptions`."""
    o = read_options(SyntheticOptions, options, "source.options")
    rng = np.random.default_rng(o.seed)
    category = np.arange(o.items) % o.categories
    group, volume = _series(category, o.series, rng)
    steps, length = _walks(o, category, group, rng)
    with o.sink(out_dir, "synthetic", progress) as sink:
        item_ids = _ids(o.items, 3, rng)
        user_ids = _ids(o.users, 4, rng)
        names = _names(group.max() + 1, rng)
        for k in range(o.items):
            label, name = CATEGORIES[category[k]], names[group[k]]
            title = f"{name} {label} {volume[k]}"
            sink.item(item_ids[k], title, [label], {"series": name, "volume": int(volume[k])})
        for user in user_ids:
            sink.user(user, {})
        who, when = np.nonzero(np.arange(o.longest)[None, :] < length[:, None])
        what = steps[who, when]
        # Users differ in pace, from several items a day to one a month, so that every time window has its users.
        pace = np.exp(rng.normal(12.0, 1.2, o.users))
        gaps = 60 + (rng.exponential(1.0, steps.shape) * pace[:, None]).astype(np.int64)
        stamps = (
            1_500_000_000 + rng.integers(0, 30_000_000, o.users)[:, None] + np.cumsum(np.minimum(gaps, 6_000_000), 1)
        )
        liked = 3 + (rng.random(len(who)) < 0.7).astype(np.float32) + (rng.random(len(who)) < 0.4)
        sink.interactions(
            pa.array(user_ids)[0:0] if not len(who) else pa.array(user_ids).take(pa.array(who)),
            pa.array(item_ids).take(pa.array(what)),
            pa.array(stamps[who, when]),
            pa.array(liked.astype(np.float32)),
        )
        return sink.close(options={k: v for k, v in vars(o).items() if k != "memory_mb"})


def _ids(count: int, digits: int, rng: np.random.Generator) -> list[str]:
    """Short numbers in random order, so that neither order nor size of an id says anything."""
    low = 10 ** (digits - 1)
    while 9 * low < count:
        low *= 10
    return [str(low + int(k)) for k in rng.permutation(9 * low)[:count]]


def _names(count: int, rng: np.random.Generator) -> list[str]:
    pairs = [f"{a} {b}" for a in FIRST for b in SECOND]
    order = rng.permutation(len(pairs))
    return [pairs[order[k % len(pairs)]] + (f" {k // len(pairs) + 1}" if k >= len(pairs) else "") for k in range(count)]


def _series(category: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Series number and volume of each item, shape: (items,) both."""
    group, volume, number = np.zeros(len(category), int), np.zeros(len(category), int), 0
    for label in np.unique(category):
        members = rng.permutation(np.flatnonzero(category == label))
        for start in range(0, len(members), size):
            part = members[start : start + size]
            group[part], volume[part] = number, np.arange(1, len(part) + 1)
            number += 1
    return group, volume


def _padded(label: np.ndarray) -> np.ndarray:
    """Members of each label, padded with -1, shape: (labels, largest)."""
    members = [np.flatnonzero(label == k) for k in range(label.max() + 1)]
    table = np.full((len(members), max(map(len, members))), -1)
    for k, row in enumerate(members):
        table[k, : len(row)] = row
    return table


def _walks(
    o: SyntheticOptions, category: np.ndarray, group: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """All users' items, one step of everybody at a time, and how many steps count: (users, longest), (users,)."""
    everyone = np.arange(o.users)
    weight = (1.0 + rng.permutation(o.items)) ** -o.tail
    taste = np.cumsum(rng.dirichlet(np.full(o.categories, o.taste), o.users), axis=1)
    length = rng.integers(o.shortest, o.longest + 1, o.users)
    mates, shelf = _padded(group), _padded(category)
    seen = np.zeros((o.users, o.items + 1), bool)
    seen[:, -1] = True  # the padding
    steps = np.zeros((o.users, o.longest), np.int64)

    def draw(options: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """One unseen option a row in proportion to its weight (exponential race); -1 where all are seen."""
        race = rng.exponential(1.0, options.shape) / weights
        race[seen[everyone[:, None], options]] = np.inf
        best = race.argmin(1)
        return np.where(np.isfinite(race[everyone, best]), options[everyone, best], -1)

    for step in range(o.longest):
        label = (rng.random(o.users)[:, None] > taste).sum(1).clip(max=o.categories - 1)
        chosen = draw(shelf[label], weight[shelf[label]])
        if step:
            back = np.minimum(rng.geometric(0.5, o.users), step)
            following = draw(mates[group[steps[everyone, step - back]]], np.ones((o.users, mates.shape[1])))
            follow = (rng.random(o.users) < o.p_series) & (following >= 0)
            chosen = np.where(follow, following, chosen)
        if (chosen < 0).any():
            anything = draw(np.broadcast_to(np.arange(o.items), (o.users, o.items)), weight[None, :])
            chosen = np.where(chosen < 0, anything, chosen)
        steps[:, step] = chosen
        seen[everyone, chosen] = True
    return steps, length
