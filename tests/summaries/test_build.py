"""Summaries are sealed, found by history, and never reach beyond a task's cutoff."""

import asyncio
from dataclasses import replace

import pytest

from star_rl.chat import ChatClient, ChatOptions
from star_rl.errors import StarError
from star_rl.files import sha256
from star_rl.prompts import Case, Summary
from star_rl.summaries import Summaries, build
from star_rl.summaries.build import build_summaries, estimate_job, longest
from tests.chat import endpoint
from tests.fakes import World

ORIGIN = ("classic", "data-1")


@pytest.fixture
def world():
    return World(tasks=6)


def built(world, folder, chunk=4, words=500, chat=None, **more):
    tasks = longest(world.tasks, lambda task: len(world.case(task).history), chunk)
    return build_summaries(folder, tasks, world.case, origin=ORIGIN, chunk=chunk, words=words, chat=chat, **more)


def by_model(world, folder, answer=endpoint.play, faulty=0.0, cache="", chunk=4, words=500, seen=None, **options):
    """Build by a served model; return the figures and the bodies of its requests."""
    options = {"model": "m", "backoff": 0.01, "retries": 0, "cache": str(cache), **options}

    async def main():
        async with (
            endpoint.Endpoint(answer=answer, faulty=faulty, kinds=("500",)) as server,
            ChatClient(ChatOptions((server.url,), **options)) as chat,
        ):
            try:
                return await built(world, folder, chunk, words, chat), server.bodies
            finally:
                if seen is not None:
                    seen.extend(server.bodies)

    return asyncio.run(main())


def test_the_longest_prefix_of_this_very_history_is_found(world, tmp_path):
    figures = asyncio.run(built(world, tmp_path))
    assert figures == {"incomplete": False, "users": 6, "summaries": 12, "failed": {}}  # 11 entries: 4 and 8
    summaries = Summaries.open(tmp_path, *ORIGIN)
    assert len(summaries) == 12
    history = world.histories["u0"]
    for length, count in ((11, 8), (9, 8), (8, 4), (5, 4)):  # the last chunk is never in a summary
        found = summaries.of("u0", history[:length])
        assert isinstance(found, Summary) and found.text
        assert (found.count, found.first, found.last) == (count, history[0][1], history[count - 1][1])
    for seen in (history[:4], [], history[1:], [("i0", 1, None), *history[1:]], world.histories["u1"]):
        assert summaries.of("u0", seen) is None
    assert summaries.of("nobody", history) is None


def test_tasks_of_one_user_with_other_cutoffs_see_nothing_of_later_days(world, tmp_path):
    """A train task's cutoff lies before the test task's: it finds the summary of its own prefix, or none."""
    (test,) = world.tasks[:1]
    tasks = [replace(test, task_id=f"cut{cutoff}", cutoff=cutoff) for cutoff in range(10, 22)]
    world.tasks = tasks
    assert longest(tasks, lambda task: len(world.case(task).history), 4) == [tasks[-1]]
    asyncio.run(built(world, tmp_path))
    summaries = Summaries.open(tmp_path)
    for task in tasks:
        seen = [event for event in world.histories["u0"] if event[1] < task.cutoff]
        found = summaries.of("u0", seen)
        case = Case.of(task, seen, world.items, summary=found)  # refuses a summary that reaches the cutoff
        assert (found is None) == (len(seen) <= 4)
        if found:
            assert found.last < task.cutoff and found.count + len(case.recent) == len(seen) and case.recent
            later = {event[0] for event in world.histories["u0"] if event[1] >= task.cutoff}
            assert not later & {word.strip(";:") for word in found.text.split()}


def test_a_model_keeps_a_running_summary_over_chunks(world, tmp_path):
    figures, bodies = by_model(world, tmp_path)
    assert figures["summaries"] == 12 and figures["model"] == "m" and figures["chat"]["calls"] == 12
    history = world.histories["u0"]
    summaries = Summaries.open(tmp_path)
    first, second = summaries.of("u0", history[:5]).text, summaries.of("u0", history).text
    asked = [body["messages"][1]["content"] for body in bodies]
    opening = next(text for text in asked if f"| {history[0][0]} " in text or f"\n{history[0][0]} |" in text)
    following = next(text for text in asked if first in text and f"\n{history[4][0]} |" in text)
    assert "(none yet)" in opening and first != second
    assert history[7][0] in following and history[8][0] not in following.split("# Next entries")[1]


def test_a_long_answer_is_cut_and_a_second_build_pays_nothing(world, tmp_path):
    cache = tmp_path / "replies.sqlite"
    options = {"cache": cache, "words": 20, "max_tokens": 50}
    said = "<think>Long {thoughts}.</think>\n" + "word " * 90
    _, bodies = by_model(world, tmp_path / "a", lambda body: {"content": said}, **options)
    assert len(bodies) == 12 and bodies[0]["max_tokens"] == 60
    assert Summaries.open(tmp_path / "a").of("u0", world.histories["u0"]).text == " ".join(["word"] * 20)
    again, bodies = by_model(world, tmp_path / "b", **options)
    assert again["summaries"] == 12 and not bodies
    assert sha256(tmp_path / "a" / "store") == sha256(tmp_path / "b" / "store")


def test_an_empty_summary_is_asked_for_once_more_then_told(world, tmp_path):
    said = {"n": 0}

    def answer(body):
        said["n"] += 1
        return {"content": " \n"} if said["n"] in (1, 3, 4) else endpoint.play(body)

    figures, bodies = by_model(world, tmp_path, answer, concurrency=1)
    assert figures["failed"] == {"malformed": 1} and not figures["incomplete"]
    assert (figures["summaries"], len(bodies)) == (11, 14)  # user 0 keeps the first of its two


def test_what_the_endpoint_failed_is_missing_and_made_by_the_next_build(world, tmp_path):
    bad = world.histories["u1"][5][0]

    def broken(body):
        if f"{bad} |" in body["messages"][1]["content"]:
            raise ConnectionResetError
        return endpoint.play(body)

    cache = tmp_path / "replies.sqlite"
    figures, _ = by_model(world, tmp_path / "s", broken, cache=cache)
    assert figures["incomplete"] and figures["failed"]["endpoint"] >= 1
    before = Summaries.open(tmp_path / "s")
    assert before.of("u1", world.histories["u1"]).count == 4  # the shorter prefix takes its place
    figures, bodies = by_model(world, tmp_path / "s", cache=cache)
    assert not figures["incomplete"] and figures["summaries"] == 12 and 0 < len(bodies) < 12
    assert Summaries.open(tmp_path / "s").of("u1", world.histories["u1"]).count == 8


def test_an_endpoint_that_is_gone_stops_the_build_and_nothing_paid_is_lost(tmp_path):
    world, cache, seen = World(tasks=40), tmp_path / "replies.sqlite", []
    with pytest.raises(StarError, match=r"users one after the other .*nothing paid is lost"):
        by_model(world, tmp_path / "s", faulty=1.0, cache=cache, concurrency=2)
    with pytest.raises(StarError, match=r"there are no summaries|not sealed"):
        Summaries.open(tmp_path / "s")
    figures, _ = by_model(world, tmp_path / "s", cache=cache, seen=seen)
    assert figures["summaries"] == 80 and len(seen) == 80


def test_a_build_that_was_killed_resumes_from_the_replies(world, tmp_path, monkeypatch):
    cache = tmp_path / "replies.sqlite"

    def dies(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build.EvidenceWriter, "seal", dies)
        with pytest.raises(KeyboardInterrupt):
            by_model(world, tmp_path / "s", cache=cache)
    figures, bodies = by_model(world, tmp_path / "s", cache=cache)
    assert figures["summaries"] == 12 and not bodies


def test_rules_are_deterministic(world, tmp_path):
    for folder in ("a", "b"):
        asyncio.run(built(world, tmp_path / folder))
    assert sha256(tmp_path / "a" / "store") == sha256(tmp_path / "b" / "store")


def test_summaries_of_another_world_or_damaged_ones_are_refused(world, tmp_path):
    asyncio.run(built(world, tmp_path))
    with pytest.raises(StarError, match=r"store of summaries .* is of scenario 'classic', not 'long_term'"):
        Summaries.open(tmp_path, "long_term", "data-1")
    with pytest.raises(StarError, match=r"store of summaries .* was built from data data-1"):
        Summaries.open(tmp_path, "classic", "data-2")
    with pytest.raises(StarError, match=r"there are no summaries in .*elsewhere"):
        Summaries.open(tmp_path / "elsewhere")
    file = next((tmp_path / "store").glob("shard-*/data.mdb"))
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(StarError, match="store of summaries is damaged"):
        Summaries.open(tmp_path)


def test_users_of_one_chunk_have_none(world, tmp_path):
    figures = asyncio.run(built(world, tmp_path, chunk=40))
    assert (figures["users"], figures["summaries"]) == (0, 0)
    assert Summaries.open(tmp_path).of("u0", world.histories["u0"]) is None


def test_the_cost_of_a_job_is_estimated_from_its_prompts(world, tmp_path):
    tasks = longest(world.tasks, lambda task: len(world.case(task).history), 4)
    said = estimate_job(tasks, world.case, 4, 30, (1e6, 2e6))
    _, bodies = by_model(world, tmp_path, lambda body: {"content": "word " * 30}, words=30)
    letters = sum(len(message["content"]) for body in bodies for message in body["messages"])
    assert said.startswith("6 users, about 12 calls, 0.0") and "at most 0.00 M out, cost " in said
    assert letters / 5 < float(said.split("cost ")[1].replace(",", "")) - 2 * 12 * 50 < letters / 2
    assert estimate_job([], world.case, 4, 30) == "0 users, about 0 calls, 0.00 M tokens in, at most 0.00 M out"


def test_progress_counts_users(world, tmp_path):
    told = []
    asyncio.run(built(world, tmp_path, progress=lambda *at: told.append(at)))
    assert told[-1] == (6, 6, "12 summaries") and len(told) == 6
