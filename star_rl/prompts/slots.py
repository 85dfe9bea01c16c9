"""Short names for what a task speaks of: candidates c1, c2 .., the record h1 (the latest), h2 .., the user ``me``.

A ranking of slots takes a third of the tokens of a ranking of ids (docs/data.md), and no mistyped id is possible. A
case is renamed as a whole (:meth:`star_rl.prompts.Case.named`), so prompts and agents need not know of it; outside of
prompt, tools and what a model writes, everything has its id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

Names = Literal["ids", "slots"]
ME, HISTORY = "me", "history"
_QUOTED = re.compile(r'(?<=")[^"\\]+(?=")')
_SLOT = re.compile(r'(?<!\w)[ch][1-9]\d*(?!\w)|(?<=")me(?=")')


class Slots:
    """The names of one task.

    Args:
        user: the user's id.
        candidates: distinct item ids in the task's order.
        record: item ids of the user's interactions, the latest first; an item may stand more than once.
        together: how many of them, from the latest, the name ``history`` stands for.
    """

    def __init__(self, user: str, candidates: Sequence[str], record: Sequence[str], together: int) -> None:
        self.user, self.candidates, self.record, self.together = user, tuple(candidates), tuple(record), together
        named = {f"c{place}": item for place, item in enumerate(candidates, 1)}
        self._ids = {**named, **{f"h{place}": item for place, item in enumerate(record, 1)}, ME: user}
        self._names = {item: name for name, item in reversed(self._ids.items()) if name != ME}

    def to_json(self) -> dict[str, Any]:
        """Return what a task's candidates do not tell, as plain data: ``Slots(candidates=.., **data)``."""
        return {"user": self.user, "record": list(self.record), "together": self.together}

    def id_of(self, name: str) -> str:
        """Return the id that a name stands for; a string that is not a name of this task stays as it is."""
        return self._ids.get(name, name)

    def ids_of(self, names: Sequence[str]) -> list[str]:
        """Return the distinct ids of the names in a call."""
        latest = self.record[: self.together]
        ids = (item for name in names for item in (latest if name == HISTORY else [self.id_of(name)]))
        return list(dict.fromkeys(ids))

    def name_of(self, item_id: str) -> str | None:
        """Return the name of an item, as a candidate or else as the latest entry of the record; None without one."""
        return self._names.get(item_id)

    def names_in(self, text: str) -> str:
        """Return a text with names in the place of ids that stand in double quotes, as in JSON."""
        return _QUOTED.sub(lambda found: self._names.get(found.group(), found.group()), text)

    def ids_in(self, text: str) -> str:
        """Return a model's text with ids in the place of names. JSON stays JSON, and no id can form a tag."""
        return _SLOT.sub(lambda found: _escaped(self.id_of(found.group())), text)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("<", "\\u003c")
