"""The schema of a model's answer, and its check."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from star_rl.evidence.model import REPRESENTATIVES, USER_CF, Category, Neighbour
from star_rl.evidence.words import clean


class CategoryAnswer(BaseModel):
    """One category in a model's answer."""

    model_config = ConfigDict(strict=True)

    name: str = Field(min_length=1, max_length=80)
    summary: str = Field(min_length=1, max_length=400)
    item_ids: list[str] = Field(min_length=1, max_length=REPRESENTATIVES)
    why: str = Field(default="", max_length=400)


class EvidenceAnswer(BaseModel):
    """A model's answer."""

    categories: list[CategoryAnswer] = Field(min_length=1, max_length=5)


def categories_in(
    text: str, tool: str, neighbours: Sequence[Neighbour], most: int = 5
) -> tuple[Category, ...] | list[str]:
    """Return the categories of a model's answer, or its faults, one line each. Never raises.

    Args:
        text: the model's reply; its outermost JSON object counts.
        tool: ``UserCF`` needs a reason for every category.
        neighbours: the ids that may be named, each once.
        most: categories to keep.
    """
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return ["there is no JSON object in it"]
    try:
        answer = EvidenceAnswer.model_validate(json.loads(text[start : end + 1]))
    except ValidationError as error:
        return [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    except (ValueError, RecursionError) as error:
        return [f"it is not valid JSON ({str(error)[:100]})"]
    known = {row.id: row for row in neighbours}
    faults: list[str] = []
    seen: set[str] = set()
    categories = []
    for number, group in enumerate(answer.categories):
        for item_id in group.item_ids:
            if item_id not in known:
                faults.append(f"categories.{number}.item_ids: {item_id!r} is not in the list")
            elif item_id in seen:
                faults.append(f"categories.{number}.item_ids: {item_id!r} is named twice")
            seen.add(item_id)
        name, summary, why = (clean(words, 400) for words in (group.name, group.summary, group.why))
        if not name or not summary or (tool == USER_CF and not why):
            faults.append(
                f"categories.{number}: name, summary{' and why' if tool == USER_CF else ''} must say something"
            )
        support = sum(known[item_id].support for item_id in group.item_ids if item_id in known)
        ids = tuple(group.item_ids)
        categories.append(Category(name, summary, ids, why if tool == USER_CF else "", len(ids), support))
    return faults or tuple(categories[:most])
