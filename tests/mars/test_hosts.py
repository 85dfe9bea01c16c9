"""The teacher on strict hosts: every preset, and whatever a model writes into its own history."""

import asyncio
import json

import pytest

from star_rl.chat import ChatClient, ChatOptions
from star_rl.chat.options import PRESETS
from star_rl.errors import StarError
from star_rl.mars import identity_of, read_runs, teach
from star_rl.mars.llm import LlmBackend
from tests.chat import endpoint, hosts


def taught(world, folder, host, answer=endpoint.play, tasks=2, options=None, **chat):
    """Teach over a strict host; return the account, the runs and the endpoint."""

    async def main():
        async with endpoint.Endpoint(answer=answer, host=host) as server:
            given = {"model": "m", "backoff": 0.01, "timeout": 5.0, "cache": str(folder / "cache.sqlite"), **chat}
            async with ChatClient(ChatOptions((server.url,), **given)) as client:
                team = world.team(LlmBackend(client, options))
                work = teach(world.tasks[:tasks], team, world.case, folder / "runs", identity_of(team, {}, "m"))
                return await work, list(read_runs(folder / "runs")), server

    return asyncio.run(main())


def calls(*made):
    """Return a model whose experts first make these calls, once."""

    def answer(body):
        expert = endpoint.agent_of(body["messages"]) in endpoint.EXPERTS
        if expert and not any(message["role"] == "tool" for message in body["messages"]):
            return {"content": None, "tool_calls": list(made)}
        return endpoint.play(body)

    return answer


def always(body):
    """A model whose experts call as long as there are tools."""
    if body.get("tools") and endpoint.agent_of(body["messages"]) in endpoint.EXPERTS:
        return {"content": None, "tool_calls": [endpoint.call("ItemCF", {"item_id": "i1"})]}
    return {"content": endpoint.wrapped(["likes drama"])} if "I called" in str(body) else endpoint.play(body)


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_ranks_on_a_strict_fake_of_its_host(world, tmp_path, name):
    account, runs, server = taught(world, tmp_path, hosts.HOSTS[name](), preset=name)
    assert account.ranked == 2 and not account.reasons and not account.failed
    assert all(run.sum("calls") for run in runs)
    if name == "openai":
        sent = server.bodies[0]
        assert sent["max_completion_tokens"] == 2048 and sent["temperature"] == 1 and "top_p" not in sent
        refused = [body["temperature"] != 1 or "top_p" in body for body in server.probes]
        assert refused == [True, True, False], "both were found out before the first run, and once"


@pytest.mark.parametrize("name", PRESETS)
def test_each_host_ranks_a_model_that_always_calls(world, tmp_path, name):
    account, _, server = taught(world, tmp_path, hosts.HOSTS[name](), answer=always, tasks=1, preset=name)
    assert account.ranked == 1, account.reasons
    assert any(body.get("tool_choice") == "none" for body in server.bodies)


@pytest.mark.parametrize(
    "arguments", ['{"user_id": "u0', "the user u0", '["u0"]', json.dumps('{"user_id": "u0"}'), "", "null", "7"]
)
def test_arguments_of_any_form_leave_a_valid_history(world, tmp_path, arguments):
    answer = calls(endpoint.call("UserCF", arguments))
    account, _, server = taught(world, tmp_path, hosts.Host(), answer)
    assert account.ranked == 2, account.reasons
    messages = [message for body in server.bodies for message in body["messages"]]
    answers = [message["content"] for message in messages if message["role"] == "tool"]
    read = arguments.startswith('"')  # JSON within JSON
    assert all(("could not be read" not in text) == (read or arguments == "") for text in answers)
    again, _, server = taught(world, tmp_path, hosts.Host(), answer)
    assert again.found == 2 and not server.bodies


@pytest.mark.parametrize("name", ["</tool_call><recommend>", "User CF", "x" * 90, ""])
def test_a_name_that_no_host_accepts_does_not_come_back(world, tmp_path, name):
    account, _, _ = taught(world, tmp_path, hosts.Host(), calls(endpoint.call(name, {"user_id": "u0"})))
    assert account.ranked == 2, account.reasons


@pytest.mark.parametrize("ids", [("a", "a"), ("", None), ("no spaces, please", "x" * 90), ("call00000", "call00000")])
def test_ids_are_plain_and_unique_over_all_turns(world, tmp_path, ids):
    made = [endpoint.call("UserCF", {"user_id": "u0"}, id) for id in ids]

    def answer(body):
        experts = endpoint.agent_of(body["messages"]) in endpoint.EXPERTS
        turns = sum(bool(message.get("tool_calls")) for message in body["messages"])
        return {"content": "", "tool_calls": made} if experts and turns < 2 else endpoint.play(body)

    account, _, _ = taught(world, tmp_path, hosts.Host(), answer)
    assert account.ranked == 2, account.reasons


@pytest.mark.parametrize("content", ["", None, " \n", []])
def test_an_empty_answer_is_not_echoed(world, tmp_path, content):
    def answer(body):
        return {"content": content} if len(body["messages"]) == 2 else endpoint.play(body)

    account, _, _ = taught(world, tmp_path, hosts.Host(), answer)
    assert account.ranked == 2, account.reasons


@pytest.mark.parametrize(
    "form",
    [
        "<JSON>\n```json\n{}\n```\n</JSON>",
        "Here is the result:\n```json\n{}\n```\nThat is all.",
        "<think>\nI could say [1, 2].\n</think>\n\n{}",
        "<Thinking>x</Thinking><JSON>The list is ```{}```</JSON>",
    ],
)
def test_json_in_a_fence_or_after_a_thought_is_the_result(world, tmp_path, form):
    def answer(body):
        message = endpoint.play(body)
        if "<JSON>" in (message["content"] or ""):
            value = message["content"].partition("<JSON>")[2].removesuffix("</JSON>")
            message["content"] = form.replace("{}", value)
        return message

    account, runs, _ = taught(world, tmp_path, hosts.Host(), answer)
    assert account.ranked == 2, account.reasons
    assert all(step["attempts"] == 1 for run in runs for step in run.steps)


class Refusing(hosts.Host):
    """Refuses every history with the model's own words, or every request but the probe."""

    def __init__(self, own, status=400):
        self.own, self.status = own, status

    def check(self, body):
        if len(body["messages"]) > 1 and (not self.own or any(m["role"] == "assistant" for m in body["messages"])):
            raise endpoint.Refusal(self.status, hosts.error("prompt blocked"))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_history_is_the_run_s_fault_and_does_not_stop_the_teacher(world, tmp_path, status):
    account, _, _ = taught(world, tmp_path, Refusing(True, status), tasks=30)
    assert account.failed == {"malformed": 30}
    assert "prompt blocked" in account.commonest and "(30 x)" in account.commonest
    with pytest.raises(StarError, match=r"none of 30 runs is ranked.*prompt blocked"):
        account.check()


def test_a_refused_prompt_is_the_endpoint_s_fault_and_stops_the_teacher(world, tmp_path):
    with pytest.raises(StarError, match=r"24 runs one after the other .*prompt blocked"):
        taught(world, tmp_path, Refusing(False), tasks=30)


def test_an_endpoint_without_tool_calls_is_named_before_any_run(world, tmp_path):
    class NoTools(hosts.Host):
        def check(self, body):
            if body.get("tools"):
                raise endpoint.Refusal(400, hosts.error('"auto" tool choice requires --enable-auto-tool-choice'))

    with pytest.raises(StarError, match="auto-tool-choice"):
        taught(world, tmp_path, NoTools())
    assert not (tmp_path / "runs").exists()


def test_a_reply_of_a_content_filter_is_the_run_s_fault(world, tmp_path):
    class Filtered(hosts.Host):
        def shape(self, data, body):
            if len(body["messages"]) > 2:
                data["choices"][0] = {"message": {"content": ""}, "finish_reason": "content_filter"}
            return data

    account, _, server = taught(world, tmp_path, Filtered())
    assert account.failed == {"malformed": 2} and "content filter" in account.commonest
    assert server.seen["calls"] == 2 * 3, "a filter is not asked again"
