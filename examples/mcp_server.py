"""An MCP server over the items of a run, with the official SDK (``pip install mcp``), as a tool of the student.

    star-rl run quickstart "tools.own=['mcp:python examples/mcp_server.py runs/mcp/tables/items.parquet']" name=mcp

Every process that rolls out starts a server of its own. The file is read by the first call, for the run makes it.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import pyarrow.parquet as pq
from mcp.server import MCPServer

server = MCPServer("items")


@cache
def items() -> list[dict[str, Any]]:
    """Return the rows of the table of items."""
    return pq.read_table(sys.argv[1], columns=["item_id", "title", "categories"]).to_pylist()


@server.tool()
def items_of(category: str, limit: int = 5) -> list[str]:
    """Name items of a category."""
    found = [f"{row['item_id']}: {row['title']}" for row in items() if category in (row["categories"] or [])]
    return found[:limit]


if __name__ == "__main__":
    server.run()
