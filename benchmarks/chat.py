"""The chat client beside a bare ``AsyncOpenAI`` loop, against an endpoint that answers after a fixed time.

    python -m benchmarks.chat [--calls 2000] [--flying 32] [--milliseconds 50] [--rounds 3] [--out FILE]

Both run in one process, in turn, with the same number of calls in flight. Reported: calls per second of each round, the
medians, and their ratio (to be at least 0.9).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import read_options, write_json
from star_rl.chat import ChatClient, ChatOptions

_REPLY = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 60}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 400, "completion_tokens": 60, "total_tokens": 460},
}


def serve(port: Any, seconds: float) -> None:
    """An endpoint in a process of its own: every answer after a fixed time, connections kept."""
    content = json.dumps(_REPLY).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", asked, re.IGNORECASE)
                await reader.readexactly(int(length.group(1)) if length else 0)
                await asyncio.sleep(seconds)
                writer.write(head + content)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(one, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


async def rate(call: Callable[[int], Awaitable[Any]], calls: int, flying: int) -> float:
    """Calls per second with ``flying`` workers."""
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await call(number)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(flying)))
    return calls / (time.perf_counter() - began)


async def compare(url: str, calls: int, flying: int, rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Calls per second of both clients, round by round, and the account of ours: a slow round by retries would show."""
    from openai import AsyncOpenAI

    def talk(number: int) -> list[dict[str, str]]:
        return [{"role": "system", "content": "s" * 800}, {"role": "user", "content": f"{number} " * 300}]

    bare = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    async with ChatClient(ChatOptions((url,), model="m", concurrency=flying)) as chat:

        async def ours(number: int) -> Any:
            return await chat.complete(talk(number))

        async def theirs(number: int) -> Any:
            return await bare.chat.completions.create(model="m", messages=talk(number), max_tokens=2048)  # type: ignore[arg-type]

        for call in (ours, theirs):  # connections first
            await rate(call, flying * 2, flying)
        for turn in range(rounds):
            order = (("ours", ours), ("bare", theirs))
            for name, call in order if turn % 2 == 0 else order[::-1]:
                found[name].append(await rate(call, calls, flying))
        account = chat.usage.figures()
    await bare.close()
    return found, account


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--flying", type=int, default=32)
    parser.add_argument("--milliseconds", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file to write the figures to")
    options = read_options(parser, calls=200, milliseconds=10.0, rounds=1)
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(port, options.milliseconds / 1000), daemon=True)
    server.start()
    try:
        while not port.value:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{port.value}/v1"
        found, account = asyncio.run(compare(url, options.calls, options.flying, options.rounds))
    finally:
        server.terminate()
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    ceiling = options.flying / (options.milliseconds / 1000)
    print(f"{options.flying} in flight, {options.milliseconds:g} ms an answer, at most {ceiling:.0f} calls/s")
    for name, title in (("ours", "star_rl.chat"), ("bare", "AsyncOpenAI")):
        print(f"  {title:14} {medians[name]:7.1f} calls/s   rounds: {', '.join(f'{r:.1f}' for r in found[name])}")
    ratio = medians["ours"] / medians["bare"]
    print(f"  ratio          {ratio:7.3f}")
    retried = account["attempts"] - account["calls"]
    print(f"  star_rl.chat   {account['calls']} calls, {retried} retried, faults: {account['faults'] or 'none'}")
    if options.out:
        sizes = {name: value for name, value in vars(options).items() if name != "out"}
        write_json(options.out, {**sizes, "rates": found, "medians": medians, "ratio": ratio, "account": account})


if __name__ == "__main__":
    main()
