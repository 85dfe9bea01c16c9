"""Tools of an MCP server, through the official Python SDK (``mcp``): over streamable HTTP or over stdio.

A process has one connection to a server. It lives on an event loop in a thread of its own, for tools are called from
threads. Where it is lost, the next call opens another.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shlex
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from star_rl.deadline import LoopThread, reason
from star_rl.errors import StarError
from star_rl.own import BadArguments

#: Seconds in which a server has to open and to list its tools.
PATIENCE = 60.0


class McpServer:
    """A connection to a server.

    Args:
        place: ``http://..`` or ``https://..``, or the command that starts a server on its standard input and output.

    Attributes:
        schemas: of its tools, in OpenAI's function form.

    Raises:
        StarError: the SDK is not installed, or the server does not open.
    """

    def __init__(self, place: str) -> None:
        self._place, self._thread, self._lock = place, LoopThread(), threading.Lock()
        self._holding: Future[None] | None = None
        self._client: Any = None
        self.schemas: list[dict[str, Any]] = []
        self._opened()

    def caller(self, name: str) -> Callable[..., str]:
        """Return a function that calls one of its tools."""

        def call(**arguments: Any) -> str:
            client = self._opened()
            try:
                result = self._thread.start(client.call_tool(name, arguments)).result()
            except Exception as error:
                if _lost(error):
                    self._drop(client)
                raise
            text = "\n".join(getattr(block, "text", f"[{block.type}]") for block in result.content)
            if result.is_error:
                raise BadArguments(text)
            return text or json.dumps(result.structured_content, ensure_ascii=False)

        return call

    def _opened(self) -> Any:
        """Return the client; open one if none is open."""
        with self._lock:
            if self._client is None:
                opened: Future[tuple[Any, list[dict[str, Any]]]] = Future()
                self._holding = self._thread.start(self._hold(opened))
                try:
                    self._client, self.schemas = opened.result(PATIENCE)
                except TimeoutError as error:
                    self._holding.cancel()
                    what = f"the MCP server {self._place} did not open in {PATIENCE:g} s"
                    raise StarError(what, "look at what it prints") from error
            return self._client

    def _drop(self, client: Any) -> None:
        with self._lock:
            if client is self._client and self._holding is not None:
                self._client = None
                self._holding.cancel()

    async def _hold(self, opened: Future[tuple[Any, list[dict[str, Any]]]]) -> None:
        """Keep a client open: the task that enters it has to leave it."""
        try:
            async with _client(self._place) as client:
                page = await client.list_tools()
                tools = list(page.tools)
                while page.next_cursor:
                    page = await client.list_tools(cursor=page.next_cursor)
                    tools += page.tools
                opened.set_result((client, [_schema(tool) for tool in tools]))
                await asyncio.Event().wait()
        except BaseException as error:
            if opened.done():
                return
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if not isinstance(error, StarError):
                what = f"the MCP server {self._place} does not open ({reason(error)})"
                error = StarError(what, "start it, or correct tools.own")
            opened.set_exception(error)


#: Returns the connection to a server, one a process.
server = functools.cache(McpServer)


def _client(place: str) -> Any:
    try:
        from mcp import Client, StdioServerParameters
    except ImportError as error:
        raise StarError("the package mcp is not installed", "install the extra `tools`") from error
    if place.startswith(("http://", "https://")):
        return Client(place)
    command, *arguments = shlex.split(place) or [""]
    return Client(StdioServerParameters(command=command, args=arguments, env=dict(os.environ)))


def _lost(error: Exception) -> bool:
    """Return whether a call failed with its connection, and not by the server's word."""
    from mcp import MCPError
    from mcp.types import CONNECTION_CLOSED

    return not isinstance(error, MCPError) or error.code == CONNECTION_CLOSED


def _schema(tool: Any) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description or tool.name, "parameters": tool.input_schema}
    return {"type": "function", "function": function}
