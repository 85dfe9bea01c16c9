"""A summary by rules: what was chosen, in which order and how it was rated. It counts and never claims a preference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from star_rl.prompts import Behaviour
from star_rl.prompts.flavours import Flavour, detail_of
from star_rl.prompts.words import one_line
from star_rl.records import Item

#: Details that many items share, by their word in a prompt: who made an item, and where it is.
_SHARED = ("by", "brand", "in")
_KINDS, _MAKERS, _TURNS, _TITLE = 6, 4, 8, 60


def summary_by_rules(
    record: Sequence[Behaviour], items: Mapping[str, Item], flavour: Flavour, chunk: int, words: int
) -> str:
    """Return the summary of a record, one fact a line; the last facts are left out to keep to ``words``.

    Args:
        record: interactions, oldest first; at least one.
        chunk: length of the parts whose kinds are told apart, so that turning points show.
        words: most words.
    """
    lines = [_range(record, flavour)]
    kinds = Counter(kind for entry in record for kind in _kinds(items.get(entry.item_id)))
    if kinds:
        lines.append(f"Kinds: {_counted(kinds, _KINDS)}.")
        lines += _turns(record, items, chunk)
    for detail in flavour.details:
        if detail.word in _SHARED:
            known = (items[entry.item_id] for entry in record if entry.item_id in items)
            makers = Counter(filter(None, (detail_of(item, detail) for item in known)))
            if repeated := Counter({name: count for name, count in makers.items() if count > 1}):
                lines.append(f"Most often {detail.word}: {_counted(repeated, _MAKERS)}.")
    lines += _ratings(record)
    lines += [_named(kind, record, items) for kind, _ in _most(kinds, 3)]
    kept: list[str] = []
    for line in lines:
        words -= len(line.split())
        if words < 0 and kept:
            break
        kept.append(line)
    return "\n".join(kept)


def _kinds(item: Item | None) -> list[str]:
    return list(dict.fromkeys(one_line(kind, 40) for kind in item.categories)) if item else []


def _most(counts: Counter[str], most: int) -> list[tuple[str, int]]:
    """The largest counts; ties by name."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]


def _counted(counts: Counter[str], most: int) -> str:
    return ", ".join(f"{name} {count}" for name, count in _most(counts, most))


def _range(record: Sequence[Behaviour], flavour: Flavour) -> str:
    first, last = record[0].day, record[-1].day
    when = f", from {first} to {last}" if first and last else ""
    distinct = len({entry.item_id for entry in record})
    again = f", {distinct} different ones" if distinct < len(record) else ""
    return f"The user {flavour.did} {len(record)} {flavour.items}{when}{again}."


def _turns(record: Sequence[Behaviour], items: Mapping[str, Item], chunk: int) -> list[str]:
    """The two most frequent kinds of each part of the record; the latest parts of a long one."""
    parts = []
    for start in range(0, len(record), chunk):
        piece = record[start : start + chunk]
        kinds = Counter(kind for entry in piece for kind in _kinds(items.get(entry.item_id)))
        parts.append(f"{start + 1}-{start + len(piece)} {_counted(kinds, 2) or 'unknown'}")
    if len(parts) < 2:
        return []
    left = [".."] if len(parts) > _TURNS else []
    return [f"By position: {'; '.join([*left, *parts[-_TURNS:]])}."]


def _ratings(record: Iterable[Behaviour]) -> list[str]:
    ratings = [entry.rating for entry in record if entry.rating is not None]
    if not ratings:
        return []
    counts = sorted(Counter(ratings).items(), reverse=True)
    spread = ", ".join(f"{rating:g} x {count}" for rating, count in counts[:10])
    return [f"Ratings: {len(ratings)} given, mean {fmean(ratings):.1f} ({spread})."]


def _named(kind: str, record: Sequence[Behaviour], items: Mapping[str, Item]) -> str:
    """The first item of a kind and the last two, by id and title."""
    ids = list(dict.fromkeys(entry.item_id for entry in record if kind in _kinds(items.get(entry.item_id))))
    shown = ids if len(ids) <= 3 else [ids[0], *ids[-2:]]
    return f"{kind}: {'; '.join(f'{one_line(one)} {one_line(items[one].title, _TITLE)}'.strip() for one in shown)}."
