"""Fuse the evidence of several keys: neighbours by the sum of their weights, categories by their name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeAlias

from star_rl.evidence.model import REPRESENTATIVES, Category
from star_rl.evidence.template import summary_of

#: (id, weight) of a key's neighbours, strongest first.
Neighbours: TypeAlias = Sequence[tuple[str, float]]


def fused_weights(lists: Sequence[Neighbours], without: Collection[str]) -> dict[str, float]:
    """Return the sum of each neighbour's weights, best first, ties by id; the ids ``without`` are left out."""
    total: dict[str, float] = {}
    for neighbours in lists:
        for item_id, weight in neighbours:
            total[item_id] = total.get(item_id, 0.0) + weight
    for item_id in without:
        total.pop(item_id, None)
    ids = sorted(total)
    ids.sort(key=total.__getitem__, reverse=True)
    return {item_id: total[item_id] for item_id in ids}


def fused_categories(
    tool: str,
    entries: Sequence[tuple[Neighbours, Sequence[Category]]],
    weights: dict[str, float],
    most: int,
    *,
    own_summaries: bool,
) -> tuple[Category, ...]:
    """Return the categories of several keys, merged by name, the largest sum of weights first.

    Args:
        tool: ``UserCF`` or ``ItemCF``.
        entries: each key's neighbours and categories.
        weights: of :func:`fused_weights`; an id that is not in it is not shown.
        most: categories to keep.
        own_summaries: a merged category keeps the summary of its strongest key; otherwise it is counted again.
    """
    groups: dict[str, list[tuple[float, Category]]] = {}
    for neighbours, categories in entries:
        own = dict(neighbours)
        for category in categories:
            strength = sum(own.get(item_id, 0.0) for item_id in category.item_ids)
            groups.setdefault(category.name, []).append((strength, category))
    members = {
        name: {item_id for _, category in rows for item_id in category.item_ids if item_id in weights}
        for name, rows in groups.items()
    }
    sums = {name: sum(map(weights.__getitem__, sorted(ids))) for name, ids in members.items()}
    total = sum(len(neighbours) for neighbours, _ in entries)
    shown: set[str] = set()
    merged = []
    for name in sorted(groups, key=lambda name: (-sums[name], name))[:most]:
        ids = sorted(members[name] - shown, key=lambda item_id: (-weights[item_id], item_id))[:REPRESENTATIVES]
        shown.update(ids)
        count = sum(category.count for _, category in groups[name])
        support = sum(category.support for _, category in groups[name])
        strongest = max(groups[name], key=lambda row: row[0])[1]
        summary = strongest.summary if own_summaries else summary_of(tool, count, total, support)
        merged.append(Category(name, summary, tuple(ids), strongest.why, count, support))
    return tuple(merged)
