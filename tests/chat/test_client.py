"""The chat client against an endpoint that fails in every way."""

import asyncio
import logging
import time

import pytest

from star_rl.chat import ChatClient, ChatError, ChatOptions
from star_rl.errors import StarError
from tests.chat import endpoint

ASK = [{"role": "system", "content": "You keep a diary."}, {"role": "user", "content": "Hello"}]
KEY = "sk-very-secret-key-1234567890"


def options(*servers, **more):
    chosen = {"model": "m", "backoff": 0.01, "timeout": 2.0, **more}
    return ChatOptions(tuple(server.url for server in servers), **chosen)


def said(words):
    return lambda body: {"content": words}


def test_reply_and_account():
    async def main():
        async with (
            endpoint.Endpoint(answer=said("hi")) as server,
            ChatClient(options(server, price_prompt=10, price_completion=100)) as chat,
        ):
            await chat.ready()
            reply = await chat.complete(ASK, max_tokens=7)
            assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.cached) == (
                "hi",
                100,
                10,
                False,
            )
            assert chat.usage.cost == pytest.approx((100 * 10 + 10 * 100) / 1e6)
            assert server.bodies[0]["max_tokens"] == 7 and server.bodies[0]["messages"] == ASK

    asyncio.run(main())


def test_tool_calls_come_as_text_whatever_form_the_server_gives():
    calls = [
        {"id": None, "function": {"name": "UserCF", "arguments": {"user_id": "1"}}},
        endpoint.call("ItemCF", "not json"),
    ]

    async def main():
        async with (
            endpoint.Endpoint(answer=lambda body: {"content": None, "tool_calls": calls}) as server,
            ChatClient(options(server)) as chat,
        ):
            reply = await chat.complete(ASK, tools=[{"type": "function"}])
            assert [call.arguments for call in reply.tool_calls] == ['{"user_id": "1"}', "not json"]
            assert all(call.id for call in reply.tool_calls) and reply.text == ""

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["429", "500", "reset", "silence", "truncated", "not_json", "no_choices", "endless"])
def test_each_fault_is_retried_and_named(kind):
    async def main():
        async with (
            endpoint.Endpoint(faulty=1.0, kinds=(kind,), answer=said("hi")) as server,
            ChatClient(options(server, retries=2, timeout=0.4)) as chat,
        ):
            with pytest.raises(ChatError):
                await chat.complete(ASK)
            assert chat.usage.attempts == 3 and sum(chat.usage.faults.values()) == 3 and chat.usage.failed == 1
            server.faulty = 0.0
            assert (await chat.complete(ASK)).text == "hi"

    asyncio.run(main())


def test_endless_output_ends_at_the_size_limit():
    async def main():
        async with (
            endpoint.Endpoint(faulty=1.0, kinds=("endless",)) as server,
            ChatClient(options(server, retries=0, timeout=30.0)) as chat,
        ):
            with pytest.raises(ChatError, match="endless"):
                await chat.complete(ASK)

    asyncio.run(main())


def test_a_refused_request_is_not_retried_and_a_refused_key_stops(monkeypatch):
    monkeypatch.setenv("STAR_RL_API_KEY", KEY)

    async def main():
        async with (
            endpoint.Endpoint(faulty=1.0, kinds=("400",)) as server,
            ChatClient(options(server, retries=5)) as chat,
        ):
            with pytest.raises(ChatError, match="http_400"):
                await chat.complete(ASK)
            assert chat.usage.attempts == 1
            server.kinds = ("401",)
            with pytest.raises(StarError, match="STAR_RL_API_KEY"):
                await chat.complete(ASK)

    asyncio.run(main())


def test_the_key_is_sent_and_appears_nowhere(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("STAR_RL_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    words = []

    async def main():
        async with (
            endpoint.Endpoint(faulty=1.0, kinds=("500",), answer=said("hi")) as server,
            ChatClient(options(server, retries=1, cache=str(tmp_path / "cache.sqlite"))) as chat,
        ):
            await chat.ready()
            with pytest.raises(ChatError) as error:  # the server echoes the key in its error
                await chat.complete(ASK)
            server.faulty = 0
            await chat.complete(ASK)
            words.extend([repr(chat), str(chat.describe), str(error.value), repr(error.value), str(chat.usage)])
            with pytest.raises(TypeError):
                chat.__reduce__()
        assert server.keys[-1] == f"Bearer {KEY}"

    asyncio.run(main())
    words += [record.getMessage() for record in caplog.records]
    words += [path.read_bytes().decode("latin1") for path in tmp_path.iterdir()]
    assert not any(KEY in word for word in words)
    assert any("[key]" in word for word in words)


def test_down_at_the_start_is_said_within_seconds():
    async def main():
        async with ChatClient(ChatOptions(("http://127.0.0.1:9/v1",), model="m")) as chat:
            await chat.ready()

    began = time.monotonic()
    with pytest.raises(StarError, match="does not answer"):
        asyncio.run(main())
    assert time.monotonic() - began < 30


def test_a_model_that_is_not_served_is_refused_and_the_only_one_is_found():
    async def main():
        async with endpoint.Endpoint(models=("qwen",)) as server:
            async with ChatClient(options(server, model="m")) as chat:
                with pytest.raises(StarError, match="qwen"):
                    await chat.ready()
            async with ChatClient(options(server, model="")) as chat:
                await chat.ready()
                assert chat.model == "qwen" and chat.describe["model"] == "qwen"

    asyncio.run(main())


def test_cache_is_keyed_by_the_full_request_and_the_pass(tmp_path):
    async def main():
        async with endpoint.Endpoint(answer=said("hi")) as server:
            for _ in range(2):  # the second client finds what the first one left
                async with ChatClient(options(server, cache=str(tmp_path / "c.sqlite"))) as chat:
                    await chat.complete(ASK)
                    await chat.complete(ASK)
                    await chat.complete(ASK, sample=1)
                    await chat.complete(ASK, temperature=0.1)
                    await chat.complete(ASK, tools=[{"type": "function"}])
            assert server.seen["calls"] == 4
            assert chat.usage.cached == 5 and chat.usage.cost == 0

    asyncio.run(main())


def test_load_is_shared_and_a_dead_endpoint_is_passed_by():
    async def main():
        async with (
            endpoint.Endpoint(answer=said("a"), delay=0.02) as one,
            endpoint.Endpoint(answer=said("b"), delay=0.02) as two,
            ChatClient(options(one, two, concurrency=8)) as chat,
        ):
            await asyncio.gather(*(chat.complete([*ASK, {"role": "user", "content": str(n)}]) for n in range(40)))
            assert min(one.seen["calls"], two.seen["calls"]) >= 10
            assert one.most_flying + two.most_flying <= 9
            await two.__aexit__()
            one.faulty, before = 0.0, one.seen["calls"]
            await asyncio.gather(*(chat.complete([*ASK, {"role": "user", "content": f"x{n}"}]) for n in range(20)))
            assert one.seen["calls"] >= before + 10

    asyncio.run(main())


def test_concurrency_is_bounded():
    async def main():
        async with endpoint.Endpoint(answer=said("a"), delay=0.01) as server:
            async with ChatClient(options(server, concurrency=3)) as chat:
                await asyncio.gather(*(chat.complete([*ASK, {"role": "user", "content": str(n)}]) for n in range(20)))
            assert server.most_flying == 3

    asyncio.run(main())


@pytest.mark.parametrize(
    "bad",
    [
        {"endpoints": ()},
        {"endpoints": ("localhost:8000",)},
        {"endpoints": (f"http://user:{KEY}@host/v1",)},
        {"endpoints": (f"http://host/v1?api_key={KEY}",)},
        {"concurrency": 0},
        {"timeout": 0},
        {"top_p": 0},
        {"retries": -1},
    ],
)
def test_bad_options_are_refused_without_the_secret(bad):
    with pytest.raises(StarError) as error:
        ChatOptions(**{"endpoints": ("http://localhost:1/v1",), **bad})
    assert KEY not in str(error.value)


def test_a_cache_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "c.sqlite").write_text("this is no database, but long enough to be read as one" * 100)
    with pytest.raises(StarError, match=r"c\.sqlite"):
        ChatClient(ChatOptions(("http://localhost:1/v1",), cache=str(tmp_path / "c.sqlite")))
