"""An environment of your own: a simulated user who rejects a list once, and says why.

    star-rl run recipes/quickstart.yaml loop.environment=examples/rejecting_user.py:RejectingUser \
        loop.budget.response_tokens=352 name=rejecting

An answer is a turn of the model without tool calls. What ``step`` returns becomes the user's next turn, which is not
trained on, and the model goes on; after None, or after ``loop.budget.user_turns`` turns, the last ranking is scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from star_rl import read_response

LATEST = 8  # interactions that make a mood


class RejectingUser:
    """Takes a list whose first item is of the category that the user chose most lately; rejects another once.

    It knows the visible interactions and the items, not what the user chooses next. An instance is made for each
    rollout.
    """

    def __init__(self, data: Any) -> None:
        """Take ``data.items`` (by id) and ``data.visible`` (an Arrow table), read when they are first used."""
        self._data = data
        self._mood: str | None = None
        self._rejected = False

    def reset(self, task: Mapping[str, Any]) -> None:
        """Find the user's mood.

        Args:
            task: ``task_id``, ``user_id`` and ``candidates`` (ids).
        """
        visible = self._data.visible
        own = visible.filter(pc.equal(visible["user_id"], task["user_id"])).sort_by("timestamp")
        moods = Counter(map(self._category, own["item_id"].to_pylist()[-LATEST:]))
        self._mood = moods.most_common(1)[0][0] if moods else None

    def step(self, text: str) -> str | None:
        """Return what the user says to an answer; None where it is taken.

        Args:
            text: what the model wrote last, with ids also where it reads and writes names.
        """
        ranks = read_response(text, "").ranks
        if self._rejected or self._mood is None or not ranks or self._category(ranks[0]) == self._mood:
            return None
        self._rejected = True
        # An id in double quotes is shown by its name where the prompt has names.
        return f'Not "{ranks[0]}": lately I mostly chose {self._mood}. Rank the candidates again.'

    def _category(self, item_id: str | None) -> str:
        item = self._data.items.get(item_id)
        return item.categories[0] if item and item.categories else "others"
