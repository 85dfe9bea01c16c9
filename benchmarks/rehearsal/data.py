"""Generate Amazon, Goodreads and Yelp in AgentRecBench's layout: three sets of tables, tasks of all five scenarios.

Every domain has its own fields and types, as the benchmark distributes them. Each user has two tastes; items of a taste
come in series that are chosen one after the other, so that evidence and history say something about the next choice.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
DOMAINS = ("amazon", "goodreads", "yelp")
#: Set of tables -> its scenarios.
SETS = {
    "all": ("classic", "user_cold_start", "item_cold_start"),
    "long": ("long_term",),
    "short": ("short_term",),
}
#: Kind of user -> (share of users, days between two interactions, fewest and most interactions).
KINDS = {
    "classic": (0.30, 40.0, 12, 30),
    "long_term": (0.30, 9.0, 30, 140),
    "short_term": (0.25, 0.7, 12, 40),
    "user_cold_start": (0.15, 20.0, 3, 6),
}
USERS, ITEMS, SERIES, TASKS = 240, 360, 6, 12
_DAY, _END = 86_400, 1_640_000_000
_TASTES = {
    "amazon": ("Kitchen", "Garden", "Audio", "Toys", "Books", "Sports", "Office", "Beauty"),
    "goodreads": ("fantasy", "mystery", "romance", "history", "science", "poetry", "horror", "travel"),
    "yelp": ("Pizza", "Sushi", "Coffee", "Museums", "Bars", "Bakeries", "Parks", "Hotels"),
}
_OPINION = (
    "It does what the description promises.",
    "I had hoped for more at this price.",
    "The second visit was better than the first.",
    "A friend recommended it, and I see why.",
    "Not for everybody, but I would choose it again.",
    "The details show that somebody cared.",
)


class _Choice(NamedTuple):
    user: int
    item: int
    stamp: int
    stars: float


def generate(root: Path, seed: int) -> Path:
    """Write the whole benchmark below ``root``; a folder that an earlier call finished is kept."""
    mark = root / ".finished"
    if mark.exists() and mark.read_text(encoding="utf-8") == str(seed):
        return root
    shutil.rmtree(root, ignore_errors=True)
    rows: dict[str, dict[str, list[Row]]] = {name: defaultdict(list) for name in SETS}
    for domain in DOMAINS:
        _domain(root, domain, random.Random(f"{seed}/{domain}"), rows)
    for name, tables in rows.items():
        folder = root / f"output_data_{name}"
        folder.mkdir(parents=True)
        for table, lines in tables.items():
            with (folder / f"{table}.json").open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    mark.write_text(str(seed), encoding="utf-8")
    return root


def _domain(root: Path, domain: str, chance: random.Random, rows: dict[str, dict[str, list[Row]]]) -> None:
    kinds = [kind for kind, (share, *_) in KINDS.items() for _ in range(round(share * USERS))]
    chance.shuffle(kinds)
    chosen = {user: list(_history(user, kind, chance)) for user, kind in enumerate(kinds)}
    counts: dict[int, int] = defaultdict(int)
    for history in chosen.values():
        for choice in history:
            counts[choice.item] += 1
    items = [_ITEM[domain](number, counts[number], chance) for number in range(ITEMS)]
    users = [_user(domain, user, len(history), chance) for user, history in chosen.items()]
    hidden: set[tuple[int, int]] = set()
    for scenario, user, truth in _tasks(kinds, chosen, counts, chance):
        _write_task(root, domain, scenario, user, truth, {choice.item for choice in chosen[user]}, chance)
        if chance.random() < 0.5:  # some sets still hold the review of the ground truth, others had it taken out
            hidden.add((user, truth))
    for name, scenarios in SETS.items():
        inside = [user for user, kind in enumerate(kinds) if name == "all" or kind in scenarios]
        rows[name]["item"] += items
        rows[name]["user"] += [users[user] for user in inside]
        rows[name]["review"] += [
            _REVIEW[domain](choice, chance)
            for user in inside
            for choice in chosen[user]
            if (user, choice.item) not in hidden
        ]


def _history(user: int, kind: str, chance: random.Random) -> Iterator[_Choice]:
    """Choices of one user, oldest first, each item once; the newest items are chosen late and seldom."""
    _, gap, fewest, most = KINDS[kind]
    tastes = chance.sample(range(8), 2)
    stamp, seen, last, made = 0, set[int](), -1, []
    for _ in range(chance.randint(fewest, most)):
        follows = last >= 0 and (last + 1) % SERIES and chance.random() < 0.6
        taste = tastes[0] if chance.random() < 0.7 else tastes[1]
        item = last + 1 if follows else 8 * SERIES * chance.randrange(ITEMS // (8 * SERIES)) + taste * SERIES
        item += 0 if follows else chance.randrange(SERIES // 2)
        if item >= ITEMS or item in seen:
            item = chance.randrange(ITEMS)
        if item in seen or (item >= ITEMS - 24 and chance.random() < 0.8):  # the last 24 items stay cold
            continue
        seen.add(item)
        last = item
        stamp += max(60, int(chance.expovariate(1 / (gap * _DAY))))
        liked = (item // SERIES) % 8 in tastes
        made.append((item, stamp, float(chance.choice((4, 5, 5) if liked else (1, 2, 3, 4)))))
    end = _END - chance.randrange(30 * _DAY)
    for item, at, stars in made:
        yield _Choice(user, item, end - (stamp - at), stars)


def _tasks(
    kinds: list[str], chosen: dict[int, list[_Choice]], counts: dict[int, int], chance: random.Random
) -> Iterator[tuple[str, int, int]]:
    """(scenario, user, ground truth): the last choice of users of that kind, of cold items in one scenario."""
    for scenario in KINDS:
        users = [user for user, kind in enumerate(kinds) if kind == scenario and len(chosen[user]) > 2]
        for user in users[:TASKS]:
            yield scenario, user, chosen[user][-1].item
    late = [user for user, kind in enumerate(kinds) if kind == "classic" and chosen[user]][TASKS:]
    cold = [item for item in range(ITEMS) if counts[item] <= 5] or list(range(ITEMS - 24, ITEMS))
    for user in late[:TASKS]:
        seen = {choice.item for choice in chosen[user]}
        if free := [item for item in cold if item not in seen]:
            yield "item_cold_start", user, chance.choice(free)


def _write_task(
    root: Path, domain: str, scenario: str, user: int, truth: int, seen: set[int], chance: random.Random
) -> None:
    folder = root / "task" / scenario / domain
    negatives = chance.sample([item for item in range(ITEMS) if item not in seen and item != truth], 19)
    candidates = [_item_id(domain, item) for item in [*negatives, truth]]
    chance.shuffle(candidates)
    task = {
        "type": "recommendation",
        "user_id": _user_id(domain, user),
        "candidate_category": {"amazon": "product", "goodreads": "book", "yelp": "business"}[domain],
        "candidate_list": candidates,
        "loc": [-1, -1],
    }
    for kind, row in (("task", task), ("groundtruth", {"ground truth": _item_id(domain, truth)})):
        place = folder / f"{kind}s" if kind == "task" else folder / kind
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{kind}_{user}.json").write_text(json.dumps(row), encoding="utf-8")


def _item_id(domain: str, item: int) -> str:
    return {"amazon": f"B0{item:08d}", "goodreads": str(1000 + item), "yelp": f"y{item:04d}bizAAAAAAAAAAAA"}[domain]


def _user_id(domain: str, user: int) -> str:
    return {"amazon": f"AE{user:024X}", "goodreads": f"{user:032x}", "yelp": f"u{user:04d}-userAAAAAAAAAAA"}[domain]


def _review_text(choice: _Choice, chance: random.Random) -> str:
    return " ".join(chance.sample(_OPINION, chance.choice((1, 1, 2, 3))))


def _title(domain: str, item: int) -> tuple[str, str]:
    """Return (title, taste): the items of a series share a name and are numbered."""
    series, part = divmod(item, SERIES)
    taste = _TASTES[domain][series % 8]
    return f"{taste.capitalize()} Line {series // 8 + 1} No {part + 1}", taste


def _amazon_item(item: int, count: int, chance: random.Random) -> Row:
    title, taste = _title("amazon", item)
    return {
        "item_id": _item_id("amazon", item),
        "main_category": "All Beauty" if taste == "Beauty" else f"{taste} Department",
        "title": title,
        "average_rating": round(chance.uniform(2.5, 5), 1),
        "rating_number": count + chance.randrange(400),
        "features": [f"Made for {taste.lower()}", "Two year warranty"],
        "description": [f"A {taste.lower()} product for every day.", "Sold with a manual."],
        "price": None if chance.random() < 0.2 else round(chance.uniform(3, 90), 2),
        "store": f"{taste} Works {item // SERIES % 5}",
        "categories": ["Home", taste] if chance.random() < 0.9 else [],
        "details": {"Weight": "1 pound"},
        "source": "amazon",
        "type": "product",
    }


def _goodreads_item(item: int, count: int, chance: random.Random) -> Row:
    title, taste = _title("goodreads", item)
    return {
        "item_id": _item_id("goodreads", item),
        "title": title,
        "title_without_series": title,
        "authors": [{"author_id": str(500 + item // SERIES), "role": "", "name": f"Author {item // SERIES}"}],
        "average_rating": f"{chance.uniform(2.5, 5):.2f}",
        "ratings_count": str(count + chance.randrange(9000)),
        "text_reviews_count": str(count),
        "publication_year": str(chance.randint(1950, 2017)),
        "description": f"A book of {taste}. It is part of a series.",
        "popular_shelves": [{"count": "90", "name": "to-read"}, {"count": "40", "name": taste}],
        "similar_books": [],
        "source": "goodreads",
        "type": "book",
    }


def _yelp_item(item: int, count: int, chance: random.Random) -> Row:
    title, taste = _title("yelp", item)
    return {
        "item_id": _item_id("yelp", item),
        "name": title,
        "address": f"{item} Main St",
        "city": chance.choice(("Tampa", "Tucson", "Reno")),
        "state": "FL",
        "stars": chance.choice((2.5, 3.0, 3.5, 4.0, 4.5)),
        "review_count": count + chance.randrange(200),
        "is_open": 1,
        "attributes": {"WiFi": "u'free'", "RestaurantsPriceRange2": "2"} if chance.random() < 0.8 else None,
        "categories": f"{taste}, Local Guide",
        "source": "yelp",
        "type": "business",
    }


def _amazon_review(choice: _Choice, chance: random.Random) -> Row:
    return {
        "review_id": f"r{choice.user}-{choice.item}",
        "user_id": _user_id("amazon", choice.user),
        "item_id": _item_id("amazon", choice.item),
        "stars": choice.stars,
        "title": "My view",
        "text": _review_text(choice, chance),
        "timestamp": choice.stamp * 1000,
        "helpful_vote": 0,
        "verified_purchase": True,
        "source": "amazon",
        "type": "product",
    }


def _goodreads_review(choice: _Choice, chance: random.Random) -> Row:
    day = datetime.fromtimestamp(choice.stamp, UTC).strftime("%a %b %d %H:%M:%S +0000 %Y")
    return {
        "review_id": f"{choice.user:016x}{choice.item:016x}",
        "user_id": _user_id("goodreads", choice.user),
        "item_id": _item_id("goodreads", choice.item),
        "stars": int(choice.stars),
        "text": _review_text(choice, chance),
        "date_added": day,
        "date_updated": day,
        "read_at": "",
        "n_votes": 0,
        "source": "goodreads",
        "type": "book",
    }


def _yelp_review(choice: _Choice, chance: random.Random) -> Row:
    return {
        "review_id": f"r{choice.user}-{choice.item}",
        "user_id": _user_id("yelp", choice.user),
        "item_id": _item_id("yelp", choice.item),
        "stars": choice.stars,
        "useful": 0,
        "funny": 0,
        "cool": 1,
        "text": _review_text(choice, chance),
        "date": datetime.fromtimestamp(choice.stamp, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "source": "yelp",
        "type": "business",
    }


def _user(domain: str, user: int, count: int, chance: random.Random) -> Row:
    row = {"user_id": _user_id(domain, user), "source": domain}
    if domain == "yelp":
        since = f"{chance.randint(2008, 2015)}-05-04 10:00:00"
        row |= {"name": f"Guest {user}", "review_count": count, "yelping_since": since, "friends": "None"}
        row |= {"average_stars": round(chance.uniform(3, 5), 2), "fans": chance.randrange(9), "elite": ""}
    return row


_ITEM: dict[str, Callable[[int, int, random.Random], Row]] = {
    "amazon": _amazon_item,
    "goodreads": _goodreads_item,
    "yelp": _yelp_item,
}
_REVIEW: dict[str, Callable[[_Choice, random.Random], Row]] = {
    "amazon": _amazon_review,
    "goodreads": _goodreads_review,
    "yelp": _yelp_review,
}
