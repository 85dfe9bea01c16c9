"""A job is followed through whatever its dashboard does: no line twice, none lost, none with a variable's value."""

import asyncio
import io
import json
from types import SimpleNamespace

import aiohttp
import pytest
import requests
from aiohttp.client_reqrep import RequestInfo
from yarl import URL

from star_rl.errors import StarError
from star_rl.launch import secret, submit

VALUE = "key-8d1f0c77b2aa41e9"
LOG = [f"one\ntwo {VALUE[:6]}", f"{VALUE[6:]}\nthree\n", "four"]
SHOWN = "one\ntwo ***\nthree\nfour\n"
_URL = URL("http://127.0.0.1:8265")
REFUSED = ConnectionRefusedError("refused")
GONE = requests.exceptions.ConnectionError("refused")
BUSY = RuntimeError("Request failed with status code 500")
HANDSHAKE = aiohttp.WSServerHandshakeError(RequestInfo(_URL, "GET", {}, _URL), (), status=500, message="bad")


class _Client:
    """A cluster whose answers fail as told; an integer among ``tails`` is the chunks after which a log breaks off,
    a tuple those after which its connection is closed as if it had ended."""

    def __init__(self, tails=(), states=(), lists=()):
        self.tails, self.states, self.lists = list(tails), list(states), list(lists)

    async def tail_job_logs(self, name):
        fault = self.tails.pop(0) if self.tails else None
        if isinstance(fault, Exception):
            raise fault
        for chunk in LOG[: fault[0] if isinstance(fault, tuple) else fault]:
            yield chunk
        if isinstance(fault, int):
            raise RuntimeError("closed")

    def get_job_status(self, name):
        state = self.states.pop(0) if self.states else "SUCCEEDED"
        if isinstance(state, Exception):
            raise state
        return SimpleNamespace(value=state)

    def list_jobs(self):
        if self.lists:
            raise self.lists.pop(0)
        about = {"name": "amazon", "out": "/shared"}
        return [
            SimpleNamespace(submission_id="job", metadata={submit.MARK: json.dumps(about)}, status="SUCCEEDED",
                            message="", start_time=1, end_time=2)
        ]  # fmt: skip


class _Clock:
    """Time that passes by sleeping alone."""

    def __init__(self):
        self.pauses = []

    async def sleep(self, seconds):
        self.pauses.append(seconds)

    def __call__(self):
        return sum(self.pauses)


def tail(client, clock=None):
    out, clock = io.StringIO(), clock or _Clock()
    entry = asyncio.run(submit._tail(client, "job", secret.Secrets({"KEY": VALUE}), out, clock.sleep, clock))
    assert entry["status"] == "SUCCEEDED"
    return out.getvalue()


@pytest.mark.parametrize(
    "client",
    [
        _Client(states=[GONE]),
        _Client(states=["RUNNING", BUSY]),
        _Client(tails=[HANDSHAKE]),
        _Client(tails=[REFUSED] * 6),
        _Client(tails=[1, HANDSHAKE, 2, 0]),
        _Client(lists=[GONE, BUSY, requests.exceptions.ReadTimeout("slow")]),
    ],
    ids=["status refused", "status 500", "handshake", "six refusals", "breaks off", "the end's list"],
)
def test_a_hiccup_of_the_dashboard_is_outlived(client, capsys):
    assert tail(client) == SHOWN
    said = capsys.readouterr().err
    assert said.count("is lost (") == said.count("connected to job again") > 0
    assert VALUE not in said


def test_one_line_says_that_it_is_lost_and_one_that_it_is_back(capsys):
    tail(_Client(states=[GONE, BUSY, "RUNNING"]))
    assert capsys.readouterr().err.splitlines() == [
        "star-rl: the connection to job is lost (refused); trying again",
        "star-rl: connected to job again",
    ]


def test_a_log_whose_connection_closes_quietly_before_the_job_ends_is_read_to_its_end():
    assert tail(_Client(tails=[(1,)], states=["RUNNING"])) == SHOWN


def test_pauses_grow_and_begin_anew_when_it_is_back():
    clock = _Clock()
    tail(_Client(states=[GONE] * 7 + ["RUNNING", GONE, GONE]), clock)
    assert clock.pauses == [1, 2, 4, 8, 16, 30, 30, 1, 1, 2]


def test_an_outage_that_lasts_ends_it_and_names_the_way_back():
    clock = _Clock()
    with pytest.raises(StarError, match=r"log of job cannot be followed \(refused\) - .*star-rl status job"):
        tail(_Client(states=[GONE] * 100), clock)
    assert submit._PATIENCE <= clock() < submit._PATIENCE + 2 * submit._LONGEST_PAUSE
    # Outages add up to nothing while the cluster answers in between, be it with an empty log.
    tail(_Client(states=[GONE, "RUNNING"] * 1000, tails=[(0,)] * 1000), clock)
