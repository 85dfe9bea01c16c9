"""Write structured evidence as a tool's answer, within a budget of tokens.

Titles, category names and ids are untrusted: each is put on one line, shortened and escaped
(:func:`star_rl.trajectory.neutral`), and so is the whole text. No title can end a tool's answer or forge a phase.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from star_rl.evidence.model import USER_CF, Catalogue, Category, Evidence
from star_rl.trajectory import neutral

Size = Literal["full", "short"]
SIZES: tuple[Size, ...] = ("full", "short")
#: Budgets in tokens when none is given.
BUDGETS: dict[Size, int] = {"full": 512, "short": 48}

NONE_FOUND = {
    "UserCF": "No users with a similar history were found, so there is no evidence for this user.",
    "ItemCF": "No items are chosen together with this one, so there is no evidence for it.",
}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
_DIGITS = re.compile(r"[0-9]")
#: (categories, items of each, characters of a title), from the most to the least detail.
_LEVELS = (
    (9, 5, 80),
    (9, 5, 40),
    (6, 5, 40),
    (6, 3, 40),
    (4, 3, 40),
    (4, 2, 28),
    (3, 2, 24),
    (3, 1, 24),
    (2, 1, 24),
    (2, 1, 0),
    (1, 1, 0),
    (1, 0, 0),
)


def approximate_tokens(text: str) -> int:
    """Return an upper estimate of a Qwen-like tokenizer's tokens: one per digit, one per three other UTF-8 bytes."""
    digits = len(_DIGITS.findall(text))
    return digits + -(-(len(text.encode("utf-8", "replace")) - digits) // 3)


@lru_cache(maxsize=1 << 16)
def clean(text: str, longest: int = 200) -> str:
    """Return untrusted text on one line, shortened, without control characters, every tag escaped."""
    line = neutral(" ".join(_CONTROL.sub(" ", text).split()))
    return line if len(line) <= longest else line[: max(0, longest - 1)].rstrip() + "…"


def in_words(
    evidence: Evidence,
    catalogue: Catalogue,
    size: Size = "full",
    budget: int | None = None,
    count: Callable[[str], int] = approximate_tokens,
) -> str:
    """Return the text of one piece of evidence.

    Args:
        evidence: the groups, strongest first.
        catalogue: titles of the representative items.
        size: ``full``: a paragraph a group; ``short``: one line of about ten words, for a tiny student.
        budget: most tokens; detail is dropped until the text fits, and at last the text is cut.
        count: a tokenizer's count; :func:`approximate_tokens` by default.
    """
    budget = BUDGETS[size] if budget is None else budget
    if not evidence.categories:
        return _cut(NONE_FOUND[evidence.tool], budget, count)
    if size == "short":
        drafts = (_short(evidence, items, groups) for groups, items in ((2, 5), (2, 3), (2, 1), (1, 1), (1, 0)))
    else:
        drafts = (_full(evidence, catalogue, *level) for level in _LEVELS)
    text = ""
    for text in drafts:
        if count(text) <= budget:
            return text
    return _cut(text, budget, count)


def _full(evidence: Evidence, catalogue: Catalogue, groups: int, items: int, title: int) -> str:
    people = "users with a similar history" if evidence.tool == USER_CF else "users who chose this item"
    lines = [f"Also chosen by {people}:"]
    for number, category in enumerate(evidence.categories[:groups], 1):
        line = f"{number}. {clean(category.name, 60)}: {clean(category.summary)}"
        if category.why and evidence.tool == USER_CF:
            line += f" Why it fits: {clean(category.why)}"
        lines.append(line)
        named = "; ".join(_named(item_id, catalogue, title) for item_id in category.item_ids[:items])
        if named:
            lines.append(f"   items: {named}")
    return neutral("\n".join(lines))


def _named(item_id: str, catalogue: Catalogue, longest: int) -> str:
    title = clean(catalogue.title(item_id), longest) if longest else ""
    return f'{clean(item_id)} "{title}"' if title else clean(item_id)


def _short(evidence: Evidence, items: int, groups: int) -> str:
    """Return one line: the strongest groups with their counts, then their strongest ids, group by group."""
    head = ", ".join(f"{clean(category.name, 24)} {category.count}" for category in evidence.categories[:groups])
    ids = _in_turn(evidence.categories[:groups], items)
    return neutral(f"{head}: {' '.join(clean(item_id, 64) for item_id in ids)}" if ids else head)


def _in_turn(categories: tuple[Category, ...], items: int) -> list[str]:
    """Return ids in proportion to the groups' counts, each group's strongest first."""
    total = sum(category.count for category in categories) or 1
    ids: list[str] = []
    for number, category in enumerate(categories):
        last = number == len(categories) - 1
        share = items - len(ids) if last else max(1, round(items * category.count / total)) if items else 0
        ids += category.item_ids[: max(0, min(share, items - len(ids)))]
    return ids


def _cut(text: str, budget: int, count: Callable[[str], int]) -> str:
    """Return the longest prefix of ``text`` that fits the budget."""
    if count(text) <= budget:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle]) <= budget:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip()
