"""The chat client against an endpoint that fails in every way."""

import asyncio
import json
import logging
import time

import pytest

from star_rl.chat import ChatClient, ChatError, ChatOptions
from star_rl.chat.options import read_request
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


class Picky:
    """Refuses requests by a function: body -> message, or None."""

    def __init__(self, refuse, shape=lambda data, body: data, status=400):
        self.refuse, self.shape, self.status = refuse, shape, status

    def check(self, body):
        if words := self.refuse(body):
            raise endpoint.Refusal(self.status, {"error": {"message": words}})


def asked(host, ready=True, **more):
    """Return the reply and the endpoint of one call."""

    async def main():
        async with (
            endpoint.Endpoint(answer=said("hi"), host=host) as server,
            ChatClient(options(server, **more)) as chat,
        ):
            if ready:
                await chat.ready()
            return await chat.complete(ASK), server

    return asyncio.run(main())


def test_any_field_of_a_request_is_dropped_renamed_or_added():
    request = {
        "drop": ["top_p"],
        "rename": {"max_tokens": "max_completion_tokens"},
        "extra": {"chat_template_kwargs": {"enable_thinking": False}, "temperature": 1},
    }
    _, server = asked(None, request=request)
    assert server.bodies[0] == {
        "model": "m",
        "messages": ASK,
        "max_completion_tokens": 2048,
        "temperature": 1,
        "chat_template_kwargs": {"enable_thinking": False},
    }


@pytest.mark.parametrize(
    ("field", "words", "sent"),
    [
        ("max_tokens", "'max_tokens' is not supported. Use 'max_completion_tokens' instead.", "max_completion_tokens"),
        ("top_p", "`top_p` cannot be specified with this model", None),
        ("temperature", "'temperature' is deprecated for this model.", None),
        ("temperature", "'temperature' does not support 0.7. Only the default (1) value is supported.", "temperature"),
    ],
)
def test_refused_fields_are_found_before_any_run_and_said(field, words, sent, caplog):
    host = Picky(lambda body: words if body.get(field) not in (None, 1) else None)
    reply, server = asked(host)
    assert reply.text == "hi" and len(server.probes) == 2 and len(server.bodies) == 1
    assert (sent in server.bodies[0]) if sent else (field not in server.bodies[0])
    assert words.rstrip(".") in caplog.text


def test_a_host_that_only_streams_is_streamed():
    def shape(data, body):
        choice = {"delta": data["choices"][0]["message"], "finish_reason": "stop"}
        return f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"

    host = Picky(lambda body: None if body.get("stream") else "only supports stream mode", shape)
    assert asked(host)[0].text == "hi"


@pytest.mark.parametrize(
    ("status", "words", "named"),
    [
        (400, "something else is wrong", "chat.request"),
        (400, "max_tokens is too large", "chat.request"),
        (404, "the model `m` does not exist", "base URL"),
        (402, "Insufficient Balance", "Insufficient Balance"),
    ],
)
def test_a_refusal_that_names_no_field_is_said_before_any_run(status, words, named):
    with pytest.raises(StarError) as error:
        asked(Picky(lambda body: words, status=status))
    assert words in str(error.value) and named in str(error.value)


def test_a_redirect_is_named():
    def refuse(body):
        raise endpoint.Refusal(307, "", {"Location": "https://example.org/v1?key=1"})

    with pytest.raises(StarError, match=r"http_307: https://example.org/v1 -"):
        asked(Picky(refuse))


def test_an_invalid_reply_is_tried_again_and_never_cached(tmp_path):
    replies = [{"choices": None}, {"error": {"message": f"free quota of {KEY}"}}]
    cache = str(tmp_path / "c.sqlite")
    reply, server = asked(Picky(lambda body: None, lambda data, body: replies.pop() if replies else data), cache=cache)
    assert reply.text == "hi" and server.seen["calls"] == 2, "the probe had the first"
    replies = [{"choices": None}] * 9
    with pytest.raises(ChatError, match="no choices"):
        asked(Picky(lambda body: None, lambda data, body: replies.pop()), False, retries=1, cache=cache, max_tokens=9)
    assert asked(None, False, cache=cache, max_tokens=9)[1].seen["calls"] == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"preset": "openia"}, "preset='openia' is not known"),
        ({"preset": "vllm"}, "endpoints names no chat endpoint"),
        ({"request": {"dorp": ["seed"]}}, "dorp"),
        ({"request": {"drop": "seed"}}, "drop"),
    ],
)
def test_wrong_options_of_hosts_are_named(given, words):
    with pytest.raises(StarError, match=words):
        ChatOptions(**({} if "preset" in given else {"endpoints": "http://h/v1"}), **given)


def test_a_preset_is_overridden_by_what_is_set():
    assert ChatOptions(preset="openai").endpoints == ("https://api.openai.com/v1",)
    own = ChatOptions(
        "http://proxy/v1", preset="openai", key_variable="MY_KEY", request={"rename": {"max_tokens": "n"}}
    )
    assert (own.endpoints, own.key_variable) == (("http://proxy/v1",), "MY_KEY")
    assert own.request.rename == {"max_tokens": "n"}


@pytest.mark.parametrize("text", ["[1]", "{drop: [", "seed"])
def test_request_fields_that_are_no_mapping_are_refused(text):
    with pytest.raises(StarError, match="is not a mapping"):
        read_request(text)
    assert read_request("{drop: [seed]}") == {"drop": ["seed"]} and read_request(None) == {}
