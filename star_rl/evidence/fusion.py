"""Fuse the evidence of several keys: neighbours by the sum of their weights, categories by their name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from star_rl.evidence.model import REPRESENTATIVES, Category
from star_rl.evidence.template import summary_of

#: Ids and weights of a key's neighbours, strongest first.
Columns: TypeAlias = Sequence[Sequence[Any]]


def fused_weights(lists: Iterable[Columns], without: Iterable[str]) -> tuple[list[str], dict[str, float]]:
    """Return the neighbours by the sum of their weights, best first, ties by id, and the sums.

    The ids ``without`` are left out.
    """
    sums: dict[str, float] = {}
    for ids, weights, *_ in lists:
        for item_id, weight in zip(ids, weights, strict=True):
            sums[item_id] = sums.get(item_id, 0.0) + weight
    for item_id in without:
        sums.pop(item_id, None)
    ids = sorted(sums)
    ids.sort(key=sums.__getitem__, reverse=True)  # a stable sort: ties stay in the order of their ids
    return ids, sums


def fused_categories(
    tool: str, entries: Iterable[Sequence[Category]], sums: dict[str, float], total: int, most: int, own_summaries: bool
) -> tuple[Category, ...]:
    """Return the categories of several keys, merged by name, the largest sum of weights first.

    Args:
        tool: ``UserCF`` or ``ItemCF``.
        entries: each key's categories.
        sums: of :func:`fused_weights`; an id that is not in it is not shown.
        total: neighbours of all keys.
        most: categories to keep.
        own_summaries: a merged category keeps the summary of its strongest key; otherwise it is counted again.
    """
    groups: dict[str, list[Category]] = {}
    for categories in entries:
        for category in categories:
            groups.setdefault(category.name, []).append(category)

    def strength(ids: Iterable[str]) -> float:
        return sum(sums.get(item_id, 0.0) for item_id in ids)

    members = {
        name: sorted({item_id for category in group for item_id in category.item_ids if item_id in sums})
        for name, group in groups.items()
    }
    strengths = {name: strength(ids) for name, ids in members.items()}
    shown: set[str] = set()
    merged = []
    for name in sorted(groups, key=lambda name: (-strengths[name], name))[:most]:
        ids = sorted((item_id for item_id in members[name] if item_id not in shown), key=sums.__getitem__, reverse=True)
        ids = ids[:REPRESENTATIVES]
        shown.update(ids)
        group = groups[name]
        count, support = sum(category.count for category in group), sum(category.support for category in group)
        strongest = max(group, key=lambda category: strength(category.item_ids))
        summary = strongest.summary if own_summaries else summary_of(tool, count, total, support)
        merged.append(Category(name, summary, tuple(ids), strongest.why, count, support))
    return tuple(merged)
