"""An entry to the official recommendation track: one file, one agent, the standard library alone.

The agent reads what the simulator's tool shows of the task - the user, the user's reviews, the items of both - and asks
a ranker that listens at ``STAR_RL_BRIDGE`` (host:port); ``star-rl official --serve`` starts one. ``STAR_RL_METHOD``
chooses among the rankers that it has. An answer that is no ranking raises, which the simulator counts as a miss.
"""

import json
import os
import socket
from typing import Any

from websocietysimulator.agent import RecommendationAgent

#: Fields that no ranker reads and that are long (a Yelp user's friends take up to 143 kB).
UNREAD = ("friends", "images", "videos", "details")


#: What the simulator gives a task.
SECONDS = 300


class StarRlAgent(RecommendationAgent):
    """Ranks the candidates of one task."""

    def workflow(self) -> list[str]:
        tool, task = self.interaction_tool, self.task
        reviews = tool.get_reviews(user_id=task["user_id"]) or []
        wanted = dict.fromkeys([*task["candidate_list"], *(review["item_id"] for review in reviews)])
        items = [row for name in wanted if (row := tool.get_item(item_id=name))]
        asked = {
            "method": os.environ.get("STAR_RL_METHOD", ""),
            "task": task,
            "user": read(tool.get_user(user_id=task["user_id"]) or {}),
            "reviews": [read(row) for row in reviews],
            "items": [read(row) for row in items],
        }
        return ask(asked)["ranking"]


def read(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what nobody reads."""
    return {name: value for name, value in row.items() if name not in UNREAD}


def ask(row: dict[str, Any]) -> Any:
    """Send one JSON line to the bridge and return its answer, one JSON line as well."""
    host, _, port = os.environ.get("STAR_RL_BRIDGE", "127.0.0.1:8765").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as line:
        line.sendall(json.dumps(row).encode() + b"\n")
        with line.makefile("rb") as answer:
            reply = json.loads(answer.readline() or b'{"error": "the bridge hung up"}')
    if "error" in reply:
        raise RuntimeError(reply["error"])
    return reply
