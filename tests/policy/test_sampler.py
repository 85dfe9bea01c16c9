"""Sampling many tasks: whole, resumed after a kill, and what a user can get wrong. The engine is scripted."""

import asyncio
import contextlib
import json

import pytest

from star_rl import locks
from star_rl.errors import StarError
from star_rl.evidence import StoreAnswer
from star_rl.policy import sampler
from star_rl.policy.loop import Generation
from star_rl.policy.sampler import PolicyTask, SamplingOptions, sample
from tests.fakes import Letters


class Echo:
    """Answers every prompt with itself; fails on request."""

    failing = False

    def __init__(self):
        self.prompts = []

    async def generate(self, prompt_ids, sampling_params, request_id):
        if self.failing:
            raise RuntimeError("no memory")
        self.prompts.append(prompt_ids)
        return Generation([*prompt_ids, 0], None, "stop")

    def close(self):
        pass


class Store:
    def answer(self, tool, keys, named=None):
        return StoreAnswer("x", ())


def killed(*_, **__):
    raise KeyboardInterrupt


TASKS = [PolicyTask(f"t{number}", [{"role": "user", "content": f"task {number}"}]) for number in range(5)]


@pytest.fixture
def engine(monkeypatch):
    from transformers import AutoTokenizer

    opened = Echo()

    @contextlib.asynccontextmanager
    async def open_engine(model, options=None):
        yield opened

    monkeypatch.setattr(sampler, "open_engine", open_engine)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *args, **kwargs: Letters())
    return opened


def rows(path):
    return [json.loads(line) for line in open(path)]


def test_every_task_is_sampled_as_often_as_asked_in_the_order_of_the_tasks(engine, tmp_path):
    seen = []
    out = sample(
        "m", TASKS, Store(), tmp_path / "o.jsonl", SamplingOptions(samples=3), progress=lambda *now: seen.append(now)
    )
    assert [(row["task_id"], row["sample"]) for row in rows(out)] == [(f"t{t}", s) for t in range(5) for s in range(3)]
    assert rows(out)[0]["model_text"] == "task 0" and rows(out)[0]["counts"]["turns"] == 1
    assert seen[-1][:2] == (15, 15) and seen[-1][2].endswith(" tokens/s")
    assert not (tmp_path / "o.jsonl.part").exists()


def test_two_do_not_sample_into_one_file(engine, tmp_path):
    with locks.hold(tmp_path / ".o.jsonl.lock", "held", "wait"), pytest.raises(StarError, match="another process"):
        sample("m", TASKS, Store(), tmp_path / "o.jsonl")
    sample("m", TASKS, Store(), tmp_path / "o.jsonl")


def test_a_killed_run_samples_only_what_is_missing(engine, tmp_path):
    out = tmp_path / "o.jsonl"
    sample("m", TASKS[:2], Store(), out)
    settings = sampler._settings("m", Store(), SamplingOptions())
    lines = out.read_text().splitlines()
    part = tmp_path / "o.jsonl.part"
    part.write_text("\n".join([json.dumps({"settings": settings}), lines[0], lines[1][:20]]))
    engine.prompts.clear()
    sample("m", TASKS, Store(), out)
    assert len(engine.prompts) == 4 and len(rows(out)) == 5


def test_another_setting_does_not_mix_with_what_was_begun(engine, tmp_path):
    (tmp_path / "o.jsonl.part").write_text(json.dumps({"settings": "other"}) + "\n")
    with pytest.raises(StarError, match="other settings"):
        sample("m", TASKS, Store(), tmp_path / "o.jsonl")


def test_a_file_that_is_whole_is_not_sampled_again_by_the_same_settings(engine, tmp_path):
    from star_rl.policy.engines import EngineOptions

    out, half = tmp_path / "o.jsonl", SamplingOptions(temperature=0.5)
    sample("m", TASKS, Store(), out)
    for again, options, seeded, asked in (
        (TASKS, None, None, 0),
        (TASKS, None, EngineOptions(seed=1), 5),
        (TASKS, half, None, 5),
        (TASKS, half, None, 0),
        (TASKS[:2], half, None, 2),
        ([PolicyTask("t0", TASKS[1].messages), TASKS[1]], half, None, 2),
    ):
        engine.prompts.clear()
        lines = rows(sample("m", again, Store(), out, options, seeded))
        assert (len(engine.prompts), [line["task_id"] for line in lines]) == (asked, [task.task_id for task in again])


def test_a_student_trained_again_or_other_evidence_does_not_mix_with_what_was_begun(engine, tmp_path, monkeypatch):
    weights, store = tmp_path / "m" / "model.safetensors", Store()
    weights.parent.mkdir()
    weights.write_text("first")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sampler, "write_jsonl", killed)
        sample(weights.parent, TASKS, store, tmp_path / "o.jsonl")
    for change in (lambda: weights.write_text("again"), lambda: setattr(store, "fingerprint", "other")):
        change()
        with pytest.raises(StarError, match="other settings"):
            sample(weights.parent, TASKS, store, tmp_path / "o.jsonl")
        weights.write_text("first")


def test_a_task_whose_prompt_is_another_is_sampled_anew(engine, tmp_path, monkeypatch):
    out = tmp_path / "o.jsonl"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sampler, "write_jsonl", killed)
        sample("m", TASKS, Store(), out)
    engine.prompts.clear()
    other = [PolicyTask("t0", [{"role": "user", "content": "another"}]), PolicyTask("t1", TASKS[1].messages, ["1"])]
    lines = rows(sample("m", [*other, *TASKS[2:]], Store(), out))
    assert len(engine.prompts) == 2
    assert [line["model_text"] for line in lines] == ["another", "task 1", "task 2", "task 3", "task 4"]


def test_an_engine_that_fails_is_an_error_and_its_rollouts_are_sampled_again(engine, tmp_path):
    engine.failing = True
    with pytest.raises(StarError, match="no memory"):
        sample("m", TASKS, Store(), tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()
    engine.failing = False
    assert len(rows(sample("m", TASKS, Store(), tmp_path / "o.jsonl"))) == 5


def test_a_store_that_fails_is_an_error_and_its_rollouts_are_sampled_again(engine, tmp_path, monkeypatch):
    call = '<tool_call>\n{"name": "UserCF", "arguments": {"user_id": "1"}}\n</tool_call>'
    tasks = [TASKS[0], PolicyTask("calls", [{"role": "user", "content": call}])]
    store = Store()
    monkeypatch.setattr(store, "answer", lambda *_: 1 / 0)
    with pytest.raises(StarError, match="failed in 1 of 2 rollouts: UserCF: ZeroDivisionError"):
        sample("m", tasks, store, tmp_path / "o.jsonl")
    engine.prompts.clear()
    lines = rows(sample("m", tasks, Store(), tmp_path / "o.jsonl"))  # Echo calls again and again
    assert [(line["task_id"], line["stop"]) for line in lines] == [("t0", "answered"), ("calls", "length")]


@pytest.mark.parametrize("moment", ["begins", "ends"])
def test_a_kill_while_the_file_is_written_anew_loses_nothing(engine, tmp_path, monkeypatch, moment):
    out, part = tmp_path / "o.jsonl", tmp_path / "o.jsonl.part"
    remove = sampler.Path.unlink

    def half(path, text, **_):
        path.write_bytes(text.encode()[: len(text) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sampler, "write_jsonl", killed)
        sample("m", TASKS, Store(), out)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "ends":  # all is written, and not yet in its place, or in both
            patch.setattr(sampler.Path, "replace", killed)
            patch.setattr(sampler.Path, "unlink", lambda path, **_: killed() if path == part else remove(path))
        else:
            patch.setattr(sampler.Path, "write_text", half)
            patch.setattr("star_rl.files.os.replace", killed)
        sample("m", TASKS, Store(), out)
    engine.prompts.clear()
    assert len(rows(sample("m", TASKS, Store(), out))) == 5
    assert not engine.prompts and not part.exists()


def test_what_an_engine_has_no_room_for_is_too_long_and_no_failure_of_the_engine(engine, tmp_path, monkeypatch):
    async def generate(prompt_ids, sampling_params, request_id):
        if len(prompt_ids) >= 100:  # as vLLM does
            raise ValueError("The decoder prompt is longer than the maximum model length")
        return Generation([*prompt_ids, 0][: 100 - len(prompt_ids)], None, "stop")

    monkeypatch.setattr(engine, "generate", generate)
    monkeypatch.setattr(engine, "window", 100, raising=False)
    call = '<tool_call>\n{"name": "UserCF", "arguments": {"user_id": "1"}}\n</tool_call>'
    tasks = [
        PolicyTask(name, [{"role": "user", "content": text}])
        for name, text in (("fits", "x"), ("long", "x" * 100), ("calls", "<tool_call>{}</tool_call>"), ("cut", call))
    ]
    lines = rows(sample("m", tasks, Store(), tmp_path / "o.jsonl"))
    assert [line["stop"] for line in lines] == ["answered", "prompt_too_long", "length", "length"]


@pytest.mark.parametrize("replicas", [1, 3])
def test_each_replica_has_its_own_rollouts_under_way(engine, tmp_path, monkeypatch, replicas):
    under_way, most = 0, 0

    async def generate(prompt_ids, sampling_params, request_id):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(10):
            await asyncio.sleep(0)
        under_way -= 1
        return Generation([*prompt_ids, 0], None, "stop")

    monkeypatch.setattr(engine, "generate", generate)
    if replicas > 1:
        monkeypatch.setattr(engine, "alive", replicas, raising=False)
    sample("m", TASKS, Store(), tmp_path / "o.jsonl", SamplingOptions(samples=4, in_flight=2))
    assert most == 2 * replicas


def test_bad_options_are_named(tmp_path):
    with pytest.raises(StarError, match="two tasks"):
        sample("m", [TASKS[0], TASKS[0]], Store(), tmp_path / "o.jsonl")
    with pytest.raises(StarError, match="samples=0"):
        SamplingOptions(samples=0)
    with pytest.raises(StarError, match="top_p"):
        SamplingOptions(top_p=0.0)
    with pytest.raises(StarError, match="there is no model"):
        sample(tmp_path / "absent", TASKS, Store(), tmp_path / "o.jsonl")
