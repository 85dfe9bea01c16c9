"""A tool of your own: search over the items' texts by BM25, with the library bm25s (``pip install bm25s``).

    star-rl run recipes/quickstart.yaml tools.own=[examples/search_tool.py:Search] name=search

The class is made once in each process. ``schema`` is what a model reads: OpenAI's form of a function. A call has the
time of ``loop.budget.tool_seconds``; raise ``star_rl.own.BadArguments`` for one that cannot be answered.
"""

from __future__ import annotations

from typing import Any

import bm25s

from star_rl import Item

SCHEMA = {
    "type": "function",
    "function": {
        "name": "Search",
        "description": "Find items by words of their title, categories and details.",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "A few words."},
                "limit": {"type": "integer", "minimum": 1, "maximum": 20, "description": "Items at most."},
            },
            "required": ["query"],
            "additionalProperties": False,
        },
    },
}


class Search:
    """Answers with the items whose texts share most words with a query."""

    schema = SCHEMA

    def __init__(self, data: Any) -> None:
        """Build the index of ``data.items``, by id."""
        self._items = list(data.items.values())
        self._index = bm25s.BM25()
        texts = [_text(item) for item in self._items]
        self._index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)

    def __call__(self, query: str, limit: int = 5) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the answer, written as JSON, and the ids in it: a line of the lens ``candidates`` is made of them."""
        words = bm25s.tokenize([query], return_ids=False, show_progress=False)
        most = min(limit, len(self._items))
        places, scores = self._index.retrieve(words, k=most, show_progress=False)
        found = [self._items[place] for place, score in zip(places[0], scores[0], strict=True) if score > 0]
        return [{"id": item.item_id, "title": item.title} for item in found], [item.item_id for item in found]


def _text(item: Item) -> str:
    return " ".join([item.title, *item.categories, *map(str, item.attributes.values())])
