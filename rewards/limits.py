"""A call that may take only so long: what a user wrote may never end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class Overtime(BaseException):
    """The time is up. No ``Exception``: an endless loop may catch those."""


def within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """What ``call`` returns or raises.

    In the main thread an alarm ends it, once a second until it heeds (a search of ``re`` looks for one as it goes on).
    In another thread none can reach it: it runs in a thread of its own, which is left behind.

    Raises:
        Overtime: it takes longer than ``seconds``.
    """
    if threading.current_thread() is threading.main_thread():
        return _alarmed(seconds, call)
    return _left_behind(seconds, call)


def _alarmed(seconds: float, call: Callable[[], Answer]) -> Answer:
    def ring(*_: Any) -> None:
        raise Overtime

    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def _left_behind(seconds: float, call: Callable[[], Answer]) -> Answer:
    answer: list[Answer] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as error:  # the caller's, whatever it is
            failure.append(error)

    thread = threading.Thread(target=run, name="star-reward", daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not answer:
        raise Overtime
    return answer[0]
