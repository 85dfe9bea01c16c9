"""Tools of an MCP server, against a server made with the official SDK in a process of its own."""

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from star_rl.errors import StarError
from star_rl.own import BadArguments, open_tools, schemas
from star_rl.tools import ToolBox

SERVER = """
import os, sys
from mcp.server import MCPServer

server = MCPServer("words")

@server.tool()
def shout(text: str, times: int = 1) -> str:
    '''Say it loudly.'''
    if text == "die":
        os._exit(3)
    if text == "fail":
        raise ValueError(text)
    return text.upper() * times

@server.tool()
def nothing() -> list[str]:
    '''Say nothing.'''
    return []

server.run("streamable-http", port=int(sys.argv[1])) if sys.argv[1:] else server.run()
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command that starts a server on its standard input and output."""
    file = tmp_path_factory.mktemp("mcp") / "server.py"
    file.write_text(SERVER)
    return [sys.executable, str(file)]


def serve(command, port):
    process = subprocess.Popen([*command, str(port)], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    raise AssertionError("the server has ended")


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_server_s_tools_answer_over_stdio_and_one_that_died_is_started_again(command):
    name = f"mcp:{' '.join(command)}"
    assert ['"name": "shout"' in text for text in schemas([name])] == [True, False]
    box = ToolBox(None, own=open_tools([name], None))
    assert box.call("shout", {"text": "<plan>", "times": 2}).text == "‹PLAN>‹PLAN>"
    assert box.call("nothing", {}).ok
    assert box.call("shout", {"text": 3}).reason == box.call("shout", {"text": "fail"}).reason == "bad_arguments"
    with ThreadPoolExecutor(4) as pool:
        words = [f"w{number}" for number in range(16)]
        assert [one.text for one in pool.map(lambda word: box.call("shout", {"text": word}), words)] == [
            word.upper() for word in words
        ]
    with pytest.raises(Exception, match="closed"):
        box.call("shout", {"text": "die"})
    assert box.call("shout", {"text": "again"}).text == "AGAIN"


def test_a_server_answers_over_http_and_is_found_again_after_it_was_restarted(command, port):
    process = serve(command, port)
    tool = open_tools([f"mcp:http://127.0.0.1:{port}/mcp"], None)["shout"]
    assert tool.answer({"text": "ha"}) == ("HA", None)
    with pytest.raises(BadArguments, match="times"):
        tool.run(text="ha", times="many")
    with pytest.raises(Exception, match=r"closed|disconnected"):
        tool.answer({"text": "die"})
    process.wait()
    with pytest.raises(StarError, match="does not open"):
        tool.answer({"text": "ha"})
    process = serve(command, port)
    assert tool.answer({"text": "back"}) == ("BACK", None)
    process.kill()
    process.wait()


@pytest.mark.parametrize("place", ["http://127.0.0.1:1/mcp", "no-such-command --at all", "true", ""])
def test_a_server_that_does_not_open_is_an_error(place):
    with pytest.raises(StarError, match=r"the MCP server .*does not open"):
        schemas([f"mcp:{place}"])
