"""Every form in which a host sends a reply, and every form in which it sends none."""

import json

import pytest

from star_rl.chat.reply import InvalidReply, read_response, words_of
from tests.chat.endpoint import call


def response(message, finish="stop", **more):
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage, **more}).encode()


def stream(*deltas, finish="stop", end=True):
    chunks = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [{"choices": [{"delta": {}, "finish_reason": finish}]}, {"choices": [], "usage": {"prompt_tokens": 3}}]
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks if end or not chunk["choices"] or chunk != chunks[-2]]
    return ("".join([": keep-alive\n\n", *lines, "data: [DONE]\n\n"])).encode()


TEXT, THOUGHT = {"type": "text", "text": "hi"}, {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    "content",
    [
        "hi",
        TEXT,
        [TEXT],
        [THOUGHT, TEXT],
        [{"type": "text", "text": "h"}, {"type": "output_text", "text": "i"}],
        ["h", "i"],
        [{"text": "hi"}],
    ],
)
def test_text_parts_are_joined_and_thoughts_left_out(content):
    assert read_response(response({"content": content}))["text"] == "hi"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_an_answer_that_a_parser_took_for_a_thought_is_used(name):
    for content in (None, "", " \n", []):
        found = read_response(response({"content": content, name: "the answer"}))
        assert found["text"] == "the answer" and found["reasoning"] == {name: "the answer"}
    assert read_response(response({"content": "hi", name: "a thought"}))["text"] == "hi"
    with pytest.raises(InvalidReply, match="max_tokens was used up by reasoning"):
        read_response(response({"content": None, name: "a thought"}, "length"))


@pytest.mark.parametrize("arguments", [{"user_id": "1"}, ["1"], None, 7, '{"user_id": ', ""])
def test_arguments_of_any_form_become_text(arguments):
    made = {"id": "a", "function": {"name": "UserCF", "arguments": arguments}}
    (found,) = read_response(response({"content": None, "tool_calls": [made]}, "tool_calls"))["tool_calls"]
    right = arguments if isinstance(arguments, str) else json.dumps({} if arguments is None else arguments)
    assert found == {"id": "a", "name": "UserCF", "arguments": right}


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, [], "none"])
def test_missing_usage_counts_no_tokens(usage):
    found = read_response(response({"content": "hi"}, usage=usage))
    assert (found["prompt_tokens"], found["completion_tokens"]) == (0, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps({"error": {"message": "Rate limit exceeded: free-models-per-day", "code": 429}}), "free-models"),
        (json.dumps({"error": "Insufficient credits"}), "Insufficient credits"),
        (json.dumps({"error": {"message": "Provider", "metadata": {"raw": "Upstream is down"}}}), "Upstream is down"),
        (json.dumps({"choices": None}), "no choices"),
        (json.dumps({"choices": []}), "no choices"),
        (json.dumps({"object": "error", "message": "bad"}), "bad"),
        (json.dumps([1]), "not a chat completion"),
        (json.dumps({"choices": [{"message": None}]}), "not a chat completion"),
        (json.dumps({"choices": [{"message": {"content": 7}}]}), "not a chat completion"),
        ("<html><style>x{}</style><body>Please log in to the network</body></html>", "no JSON: Please log in"),
        ("", "no JSON"),
        ('{"choices": [{"mess', "no JSON"),
        ("[" * 10000, "no JSON"),
        (response({"content": "x"}, "error").decode(), "finish reason error"),
        (response({"content": "", "tool_calls": []}, "tool_calls").decode(), "but no calls"),
        ("data: {broken\n\n", "chunk of the event stream is invalid"),
        ('data: {"error": {"message": "overloaded"}}\n\n', "overloaded"),
        (stream({"content": "hi"}, finish=None).decode(), "ended before its last chunk"),
    ],
)
def test_no_reply_is_named_in_the_host_s_words(content, words):
    with pytest.raises(InvalidReply, match=words) as error:
        read_response(content.encode())
    assert not error.value.filtered


def test_a_choice_s_error_is_named_and_a_content_filter_is_told_apart():
    choice = {"finish_reason": "error", "error": {"code": 502, "message": "Upstream failed"}, "message": {}}
    with pytest.raises(InvalidReply, match="Upstream failed"):
        read_response(json.dumps({"choices": [choice]}).encode())
    with pytest.raises(InvalidReply, match="content filter") as error:
        read_response(response({"content": ""}, "content_filter"))
    assert error.value.filtered
    assert read_response(response({"content": "a part"}, "content_filter"))["finish"] == "content_filter"


def test_an_event_stream_is_one_reply():
    found = read_response(stream({"role": "assistant", "content": "h"}, {"content": "i"}, {"reasoning_content": "hm"}))
    assert (found["text"], found["finish"], found["prompt_tokens"]) == ("hi", "stop", 3)
    assert found["reasoning"] == {"reasoning_content": "hm"}
    first = {"index": 0, "id": "a", "function": {"name": "UserCF", "arguments": '{"user_id"'}}
    second = {"index": 1, "id": "b", "function": {"name": "ItemCF", "arguments": "{}"}}
    rest = {"index": 0, "function": {"arguments": ': "1"}'}}
    found = read_response(stream(*({"tool_calls": [part]} for part in (first, second, rest)), finish="tool_calls"))
    assert [(one["id"], one["arguments"]) for one in found["tool_calls"]] == [("a", '{"user_id": "1"}'), ("b", "{}")]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no such model"}}, "no such model"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}, {"msg": "extra"}]}, "field required; extra"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"message": "slow down"}, "slow down"),
        ({"object": "list"}, '{"object": "list"}'),
    ],
)
def test_a_host_s_own_words(body, words):
    assert words_of(json.dumps(body).encode()) == words


def test_calls_without_ids_get_plain_ones():
    made = [{**call("UserCF", {}), "id": None} for _ in range(2)]
    found = read_response(response({"content": None, "tool_calls": made}))["tool_calls"]
    assert [one["id"] for one in found] == ["call00000", "call00001"]
