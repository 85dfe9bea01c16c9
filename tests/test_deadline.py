"""Calls that never return: nobody waits for them, and they take nothing from others."""

import asyncio
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from star_rl import deadline


@pytest.fixture
def release():
    before = deadline.stuck()  # calls that other tests left behind for good
    event = threading.Event()
    yield event
    event.set()
    while deadline.stuck() > before:  # else they take room from the next test
        time.sleep(0.01)


def test_an_answer_and_an_error_come_through_and_threads_are_used_again():
    used = []

    def failing():
        raise TimeoutError("its own")

    async def many():
        for number in range(50):
            assert await deadline.ask(lambda n=number: used.append(threading.get_ident()) or n, 5) == number
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError, match="its own"):
            await deadline.ask(failing, 5)

    asyncio.run(many())
    assert len(set(used)) < 10


def test_more_stuck_calls_than_threads_at_once_leave_room_for_others(release):
    async def many():
        stuck = await asyncio.gather(
            *(deadline.ask(release.wait, 0.02) for _ in range(3 * deadline.AT_ONCE)), return_exceptions=True
        )
        assert {type(error) for error in stuck} == {deadline.Overdue}
        return await deadline.ask(lambda: "here", 5)

    assert asyncio.run(many()) == "here"


def test_there_are_only_so_many_stuck_calls_and_what_returns_makes_room(release, monkeypatch):
    monkeypatch.setattr(deadline, "STUCK", deadline.stuck() + 3)

    async def bounded():
        for _ in range(3):
            with pytest.raises(deadline.Overdue, match=r"no answer in 0\.01 s"):
                await deadline.ask(release.wait, 0.01)
        with pytest.raises(deadline.Overdue, match="earlier calls have not returned"):
            await deadline.ask(lambda: "here", 5)
        release.set()
        while deadline.stuck() >= deadline.STUCK:
            await asyncio.sleep(0.01)
        return await deadline.ask(lambda: "here", 5)

    assert asyncio.run(bounded()) == "here"


def test_a_process_ends_while_a_tool_hangs():
    program = textwrap.dedent("""
        import asyncio, threading
        from star_rl.policy.loop import Budget, Generation, rollout

        class Tokens:
            def encode(self, text, *, add_special_tokens): return [ord(c) + 1 for c in text]
            def decode(self, ids, **_): return "".join(chr(i - 1) for i in ids)
            def convert_tokens_to_ids(self, token): return 0

        class Engine:
            async def generate(self, *_):
                text = '<tool_call>\\n{"name": "UserCF", "arguments": {"user_id": "7"}}\\n</tool_call>'
                return Generation([*Tokens().encode(text, add_special_tokens=False), 0])

        class Hanging:
            def call(self, name, arguments): threading.Event().wait()

        result = asyncio.run(rollout(Engine(), Tokens(), [1], Hanging(), Budget(tool_seconds=0.1), {}))
        print(result.stop, result.error)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "tool_error UserCF gave no answer in 0.1 s\n", done.stderr
