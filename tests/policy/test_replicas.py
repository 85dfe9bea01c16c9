"""Replicas: routing by prompt and rollout, a replica that dies, and two real ones behind the sampler."""

import asyncio
import json
from collections import Counter

import psutil
import pytest

from star_rl.errors import StarError
from star_rl.policy import replicas
from star_rl.policy.engines import EngineOptions
from star_rl.policy.loop import Budget
from star_rl.policy.replicas import SLACK, Replicas, open_engine
from star_rl.policy.sampler import PolicyTask, SamplingOptions, sample
from tests.policy import toy


class Gone(Exception):
    pass


class Fleet:
    """Servers that count what they were asked, wait until they are let go, and may be dead."""

    def __init__(self, count):
        self.asked, self.dead, self.gate = Counter(), set(), asyncio.Event()
        self.replicas = Replicas({k: self.server(k) for k in range(count)}, lambda error: isinstance(error, Gone))

    def server(self, number):
        async def generate(prompt_ids, sampling_params, request_id):
            self.asked[number] += 1
            await self.gate.wait()
            if number in self.dead:
                raise Gone("the node went away")
            if sampling_params.get("wrong"):
                raise ValueError("wrong")
            return [number], None, "stop"

        return generate


def asked(prompts, **options):
    async def work():
        fleet = Fleet(4)
        tasks = [
            asyncio.create_task(fleet.replicas.generate(prompt, {}, f"r{number}"))
            for number, prompt in enumerate(prompts)
        ]
        await asyncio.sleep(0)
        fleet.dead |= options.get("dead", set())
        fleet.gate.set()
        first = [said.token_ids[0] for said in await asyncio.gather(*tasks)]
        again = [
            (await fleet.replicas.generate([*prompt, 7, 7], {}, f"r{number}")).token_ids[0]
            for number, prompt in enumerate(prompts)
        ]
        return fleet, first, again

    return asyncio.run(work())


def test_a_rollout_stays_where_it_began_and_a_prompt_where_it_is_cached():
    _, first, again = asked([[number % 8] for number in range(32)])
    assert first == again
    for prompt in range(8):
        assert len({first[number] for number in range(prompt, 32, 8)}) == 1


def test_one_prompt_does_not_crowd_one_replica():
    _, first, _ = asked([[1]] * 64)
    counts = Counter(first)
    assert set(counts) == {0, 1, 2, 3} and max(counts.values()) - min(counts.values()) <= SLACK + 1


def test_what_a_dead_replica_was_asked_is_asked_of_the_others():
    fleet, first, again = asked([[number] for number in range(40)], dead={1, 2})
    assert set(first) | set(again) == {0, 3} and fleet.replicas.alive == 2


def test_without_any_replica_and_with_a_wrong_request():
    async def work(dead, sampling):
        fleet = Fleet(2)
        fleet.dead, _ = dead, fleet.gate.set()
        await fleet.replicas.generate([1], sampling, "r")

    with pytest.raises(StarError, match="no replica of the engine is left"):
        asyncio.run(work({0, 1}, {}))
    with pytest.raises(ValueError, match="wrong"):
        asyncio.run(work(set(), {"wrong": True}))


@pytest.mark.engine
def test_a_replica_whose_engine_died_is_lost_and_one_that_refused_a_request_is_not():
    from ray import cloudpickle
    from ray.exceptions import ActorDiedError, RayTaskError
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    def raised(cause):
        """As an awaited actor's method raises it."""
        return cloudpickle.loads(cloudpickle.dumps(RayTaskError("generate", "traceback", cause))).as_instanceof_cause()

    assert replicas.is_lost(raised(EngineDeadError())) and replicas.is_lost(ActorDiedError())
    assert not replicas.is_lost(raised(EngineGenerateError("no"))) and not replicas.is_lost(raised(ValueError("no")))


def test_replicas_that_wait_for_gpus_say_so_and_one_that_fails_ends_the_waiting(monkeypatch):
    told = []
    monkeypatch.setattr(replicas, "LOG_EVERY", 0.01)
    monkeypatch.setattr(replicas._log, "warning", lambda text, *values: told.append(text % values))

    async def work(last):
        futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
        futures[0].set_result(64)
        waiting = asyncio.ensure_future(replicas.all_ready(futures, lambda: {"GPU": 1.0}))
        while not told:
            await asyncio.sleep(0.01)
        last(futures)
        return await waiting

    def stand(futures):
        for future in futures[1:]:
            future.set_result(32)

    assert asyncio.run(asyncio.wait_for(work(stand), 10)) == [64, 32, 32]
    assert told[0] == "2 of 3 replicas are not ready; GPUs free: 1"
    told.clear()
    with pytest.raises(Gone, match="no memory"):
        asyncio.run(asyncio.wait_for(work(lambda futures: futures[2].set_exception(Gone("no memory"))), 10))


def test_how_many_replicas(monkeypatch):
    import torch

    assert replicas.count(EngineOptions(replicas=3)) == 3
    monkeypatch.setattr(replicas, "has_accelerator", lambda: False)
    assert replicas.count(EngineOptions()) == 1
    monkeypatch.setattr(replicas, "has_accelerator", lambda: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert replicas.count(EngineOptions()) == 8
    assert replicas.count(EngineOptions(extra=(("tensor_parallel_size", 4),))) == 2
    assert replicas.count(EngineOptions(extra=(("tensor_parallel_size", 16),))) == 1
    with pytest.raises(StarError, match="replicas=0 is not valid"):
        EngineOptions(replicas=0)


def test_transformers_have_no_replicas(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    async def work():
        async with open_engine(tmp_path, EngineOptions(kind="transformers", replicas=2)):
            pass

    with pytest.raises(StarError, match="2 replicas of transformers"):
        asyncio.run(work())


@pytest.mark.engine
@pytest.mark.slow
def test_two_replicas_sample_and_one_that_is_killed_loses_nothing(tmp_path):
    model, store_folder, rows = toy.make_policy(tmp_path)
    store = toy.ToyStore.open(store_folder)
    tasks = [PolicyTask(row["task_id"], row["prompt"], row["candidates"]) for row in rows[:40]]
    options = SamplingOptions(
        samples=4, temperature=1.0, in_flight=24, lens="candidates", budget=Budget(response_tokens=192)
    )
    seen: dict[str, set[int]] = {"Server": set()}
    killed = []

    def servers():
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                words = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if words.startswith("ray::Server"):
                found.append(process)
        return found

    def on_progress(done, total, note):
        if not killed and done >= 20:
            alive = servers()
            seen["Server"] |= {process.pid for process in alive}
            alive[0].kill()
            killed.append(alive[0].pid)

    engine = EngineOptions(max_model_len=512, max_num_seqs=16, replicas=2)
    out = sample(model, tasks, store, tmp_path / "out.jsonl", options, engine, on_progress)
    assert len(seen["Server"]) == 2 and killed
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["task_id"], line["sample"]) for line in lines] == [(t.task_id, n) for t in tasks for n in range(4)]
    assert sum(line["stop"] == "answered" for line in lines) > 0.9 * len(lines)
    texts = [line["model_text"] for line in lines]
    assert len(set(texts)) > len(tasks), "the samples of a task are all alike"
    left = [process for process in psutil.Process().children(recursive=True) if "VLLM" in " ".join(process.cmdline())]
    assert not left, left
