"""Review texts, for the agents that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.compute as pc

from star_rl.prompts import Behaviour

#: ``(user id, behaviour) -> text``; empty if the user wrote nothing.
ReviewOf = Callable[[str, Behaviour], str]


def no_reviews(user_id: str, behaviour: Behaviour) -> str:
    """Return no text, for sources without reviews."""
    return ""


class Reviews:
    """Review texts of some users, by user, item and time; the text of a later interaction is never returned.

    Args:
        interactions: a table of interactions.
        users: whose texts are kept.
    """

    def __init__(self, interactions: pa.Table, users: Iterable[str]) -> None:
        wanted = pa.array(sorted(set(users)), pa.string())
        rows = interactions.filter(
            pc.and_(pc.is_in(interactions["user_id"], wanted), pc.is_valid(interactions["text"]))
        )
        columns = (rows[name].to_pylist() for name in ("user_id", "item_id", "timestamp", "text"))
        self._texts = {(user, item, stamp): text for user, item, stamp, text in zip(*columns, strict=True)}

    def __len__(self) -> int:
        return len(self._texts)

    def __call__(self, user_id: str, behaviour: Behaviour) -> str:
        return self._texts.get((user_id, behaviour.item_id, behaviour.timestamp), "")
