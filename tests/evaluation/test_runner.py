"""Methods at work: whatever one does is an answer or a failure with its reason, and nothing is answered twice."""

import asyncio
import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from star_rl.errors import StarError
from star_rl.evaluation import results, runner
from star_rl.evaluation.methods import Method, Ranking, TaskContext
from star_rl.evaluation.methods.baseline import BaselineMethod
from star_rl.evaluation.methods.python import Isolated
from star_rl.evaluation.scores import score
from star_rl.failure import Failure
from star_rl.records import Task

TASKS = [Task(f"t{k}", "amazon", "classic", "u", tuple(str(n) for n in range(20)), "7", 5) for k in range(6)]


class Plain:
    """A ranker made of a function."""

    def __init__(self, function, name="plain"):
        self.function, self.name, self.asked = function, name, []

    def rank(self, context):
        self.asked.append(context.task.task_id)
        return self.function(context.task)


def run(method, folder, tasks=TASKS, **options):
    if not isinstance(method, Method):
        method = BaselineMethod(method)
    return asyncio.run(runner.run_method(method, tasks, lambda task, sample: TaskContext(task), folder, **options))


def scored(folder, tasks=TASKS, samples=1):
    table = results.table_of(runner.read_answers(folder, tasks))
    return score(table, tasks, samples, 200, 0)["methods"]


def test_a_method_that_raises_is_a_miss_with_its_reason(tmp_path):
    def half(task):
        if task.task_id in ("t1", "t3"):
            raise ValueError("no idea")
        return ["7"]

    failed = run(Plain(half), tmp_path)
    assert failed == {"error: ValueError: no idea": 2}
    (row,) = scored(tmp_path)
    assert (row["n"], row["failed"]) == (6, 2)
    assert row["hr1"] == pytest.approx(100 * 4 / 6)
    kept = [answer.failure for answer in runner.read_answers(tmp_path, TASKS)]
    wrong = Failure("error", "ValueError: no idea")
    assert kept == [None, wrong, None, wrong, None, None]


def test_a_method_that_exits_or_overflows_the_stack_fails_alone(tmp_path):
    def wild(task):
        if task.task_id == "t0":
            raise SystemExit(3)
        return wild(task) if task.task_id == "t1" else ["7"]

    assert len(run(Plain(wild), tmp_path)) == 2
    assert scored(tmp_path)[0]["failed"] == 2


def test_a_method_that_hangs_is_a_miss_and_holds_up_nobody(tmp_path):
    release = threading.Event()

    def slow(task):
        if task.task_id == "t2":
            release.wait()
        return ["7"]

    failed = run(Plain(slow), tmp_path, timeout=0.5)  # ends although nobody has released the task
    release.set()
    assert failed == {"timeout: no answer within 0.5 s": 1}
    assert scored(tmp_path)[0]["failed"] == 1


def test_what_came_too_late_is_asked_again_where_more_time_is_given(tmp_path):
    class Slow(Method):
        name, asked, quick = "slow", 0, False

        async def rank(self, context):
            self.asked += 1
            if context.task.task_id == "t2" and not self.quick:
                await asyncio.Event().wait()
            return ["7"]

    methods = [Slow() for _ in range(3)]
    methods[2].quick = True
    for method, timeout in zip(methods, (0.5, 0.1, 30), strict=True):
        run(method, tmp_path, timeout=timeout)
    assert [method.asked for method in methods] == [6, 0, 1]
    assert scored(tmp_path)[0]["failed"] == 0


def test_an_asynchronous_method_that_hangs_is_cancelled(tmp_path):
    class Sleeper(Method):
        name = "sleeper"
        in_flight = 6

        async def rank(self, context):
            if context.task.task_id == "t5":
                await asyncio.Event().wait()
            return ["7"]

    assert run(Sleeper(), tmp_path, timeout=0.5) == {"timeout: no answer within 0.5 s": 1}


def test_a_string_is_a_failure_even_where_it_holds_the_truth(tmp_path):
    assert run(Plain(lambda task: '["7"]'), tmp_path) == {"error: returned a str where a list of ids is asked for": 6}
    (row,) = scored(tmp_path)
    assert (row["hr5"], row["failed"], row["valid_rate"]) == (0.0, 6, 0.0)


def test_duplicates_and_foreign_ids_hold_their_places_and_show_in_the_validity(tmp_path):
    run(Plain(lambda task: ["x", "x", "7"]), tmp_path)
    (row,) = scored(tmp_path)
    assert (row["hr1"], row["hr3"], row["valid_rate"]) == (0.0, 100.0, 0.0)


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path):
    class Killed(Exception):
        pass

    def until(task):
        return ["7"]

    first = Plain(until)

    def stop(done, total=None, note=""):
        if done == 3 and "ready" not in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(first, tmp_path, progress=stop)
    path = tmp_path / "plain.jsonl"
    path.write_text(path.read_text() + '{"task_id": "t3", "sam')  # cut short by the kill
    second = Plain(until)
    run(second, tmp_path)
    assert first.asked == ["t0", "t1", "t2"] and second.asked == ["t3", "t4", "t5"]
    third = Plain(until)
    run(third, tmp_path)
    assert third.asked == []
    assert [answer.task.task_id for answer in runner.read_answers(tmp_path, TASKS)] == [t.task_id for t in TASKS]


def test_a_finished_method_is_not_even_opened(tmp_path):
    class Costly(Method):
        name = "costly"
        opened = 0

        async def __aenter__(self):
            Costly.opened += 1
            return self

        async def rank(self, context):
            return Ranking(["7"])

    run(Costly(), tmp_path)
    run(Costly(), tmp_path)
    assert Costly.opened == 1


def test_another_method_of_the_same_name_is_refused(tmp_path):
    plain = Plain(lambda task: ["7"])
    run(BaselineMethod(plain, {"k": 1}), tmp_path)
    with pytest.raises(StarError, match=r"plain.jsonl holds answers with other settings .k: 1 -> 2."):
        run(BaselineMethod(plain, {"k": 2}), tmp_path)


def test_what_differs_is_named(tmp_path):
    plain = Plain(lambda task: ["7"])
    run(BaselineMethod(plain, {"k": 1, "depth": 2}), tmp_path)
    with pytest.raises(StarError, match=r"with other settings \(k: 1 -> 2\)"):
        run(BaselineMethod(plain, {"k": 2, "depth": 2}), tmp_path)
    other = BaselineMethod(plain, {"k": 1, "depth": 2})
    other.origin = {"source": "another file"}
    with pytest.raises(StarError, match=r"with other settings \(source: absent -> another file\)"):
        run(other, tmp_path)


def test_answers_to_other_tasks_of_the_same_ids_are_refused(tmp_path):
    others = [replace(task, user_id="v") for task in TASKS]
    run(Plain(lambda task: ["7"]), tmp_path, TASKS[:3])
    with pytest.raises(StarError, match="another task t0 than is evaluated here - evaluate each task set in a"):
        run(Plain(lambda task: ["7"]), tmp_path, others)
    with pytest.raises(StarError, match="an answer to another task t0"):
        runner.read_answers(tmp_path, others)
    grown = Plain(lambda task: ["7"])
    run(grown, tmp_path)
    assert grown.asked == ["t3", "t4", "t5"]
    run(Plain(lambda task: ["7"]), tmp_path, TASKS[:2])  # a part of the set, as a study may ask
    path = tmp_path / "plain.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "task"}) + "\n" for row in lines))
    assert len(runner.read_answers(tmp_path, others)) == 6  # written before answers knew their tasks


class Served(Method):
    """Its endpoint answers only while it is up: a task's id says whether."""

    name = "served"

    def __init__(self, down=()):
        self.down, self.asked = set(down), []

    async def rank(self, context):
        self.asked.append(context.task.task_id)
        gone = context.task.task_id in self.down
        return Ranking(None, Failure("endpoint", "503")) if gone else Ranking(["7"])


MANY = [replace(TASKS[0], task_id=f"t{k:02}") for k in range(30)]


def test_an_outage_ends_the_work_and_is_no_answer(tmp_path):
    names = [task.task_id for task in MANY]
    with pytest.raises(StarError, match=r"the endpoint of served failed 10 answers one after the other .*503"):
        run(Served(names[5:]), tmp_path, MANY)
    assert [answer.task.task_id for answer in runner.read_answers(tmp_path, MANY)] == names[:5]
    again = Served()
    run(again, tmp_path, MANY)
    assert again.asked == names[5:]
    assert scored(tmp_path, MANY)[0]["hr1"] == 100.0


def test_an_endpoint_that_never_answered_has_not_been_judged(tmp_path):
    with pytest.raises(StarError, match="failed 6 answers one after the other"):
        run(Served(task.task_id for task in TASKS), tmp_path)
    assert runner.read_answers(tmp_path, TASKS) == []


def test_what_an_endpoint_failed_now_and_then_is_a_miss_until_it_is_asked_again(tmp_path):
    assert run(Served(["t1", "t5"]), tmp_path) == {"endpoint: 503": 2}
    assert scored(tmp_path)[0]["failed"] == 2
    second = Served(["t5"])
    run(second, tmp_path)
    assert second.asked == ["t1", "t5"] and scored(tmp_path)[0]["failed"] == 1
    run(Served(["t5"]), tmp_path)
    assert len((tmp_path / "served.jsonl").read_text().splitlines()) == 1 + 6 + 1  # the last is yet to be put in order
    third = Served()
    run(third, tmp_path)
    run(Served(), tmp_path)
    assert third.asked == ["t5"] and scored(tmp_path)[0]["failed"] == 0
    assert len((tmp_path / "served.jsonl").read_text().splitlines()) == 1 + 6


@pytest.mark.parametrize("words", ["endpoint: gone", "no answer within 0.001 s"])
def test_the_words_of_a_failure_decide_nothing(tmp_path, words):
    """Ten answers that fail with words of an outage or a timeout are ten misses, and are not asked for again."""

    class Wordy(Method):
        name = "wordy"

        def __init__(self, raises):
            self.raises, self.asked = raises, 0

        async def rank(self, context):
            self.asked += 1
            if self.raises:
                raise RuntimeError(words)
            return Ranking(None, words)

    for raises in (True, False):
        folder = tmp_path / str(raises)
        assert run(Wordy(raises), folder, MANY) == {f"error: {words}": len(MANY)}
        again = Wordy(raises)
        run(again, folder, MANY)
        assert again.asked == 0


def test_a_failure_is_kept_with_its_kind(tmp_path):
    run(Served(["t1"]), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "served.jsonl").read_text().splitlines()]
    assert rows[2]["failure"] == {"kind": "endpoint", "message": "503"}
    table = results.table_of(runner.read_answers(tmp_path, TASKS))
    assert table["failure_kind"].to_pylist()[:2] == [None, "endpoint"]


def test_a_method_that_cannot_start_is_named(tmp_path):
    class Shut(Method):
        name = "shut"

        async def __aenter__(self):
            raise ValueError("no such device")

        async def rank(self, context):
            return ["7"]

    for method in (Shut(), Isolated(Shut())):
        with pytest.raises(StarError, match=r"method shut cannot start .ValueError: no such device. - mend it"):
            run(method, tmp_path)


def test_a_method_that_cannot_end_is_named_and_its_answers_are_kept(tmp_path):
    class Stuck(Method):
        name = "stuck"

        async def __aexit__(self, *_):
            raise OSError("still busy")

        async def rank(self, context):
            return ["7"]

    for number, method in enumerate((Stuck(), Isolated(Stuck()))):
        with pytest.raises(StarError, match=r"method stuck cannot end .OSError: still busy. - mend it"):
            run(method, tmp_path / str(number))
        assert scored(tmp_path / str(number))[0]["hr1"] == 100.0


def test_what_the_user_can_mend_stops_the_run_and_says_so(tmp_path):
    class Broken(Method):
        name = "broken"
        in_flight = 3

        async def rank(self, context):
            raise StarError("the endpoint refuses the key", "set it")

    with pytest.raises(StarError, match="refuses the key"):
        run(Broken(), tmp_path)


def test_samples_are_taken_where_answers_vary(tmp_path):
    class Varying(Method):
        name = "varying"
        varies = True

        async def rank(self, context):
            return Ranking(["7"])

    run(Varying(), tmp_path, samples=3)
    run(Plain(lambda task: ["7"]), tmp_path, samples=3)
    assert {row["name"]: row["samples"] for row in scored(tmp_path, samples=3)} == {"varying": 3, "plain": 1}
    run(Varying(), tmp_path, samples=4)
    assert len((tmp_path / "varying.jsonl").read_text().splitlines()) == 1 + 4 * len(TASKS)


def test_answers_to_another_task_set_are_refused(tmp_path):
    run(Plain(lambda task: ["7"]), tmp_path)
    with pytest.raises(StarError, match="an answer to task t0, which is not among the 5 tasks"):
        runner.read_answers(tmp_path, TASKS[1:])


def test_names_that_are_no_file_names(tmp_path):
    for name in ("a/b", "../up", "ä", "x" * 300, "mars w/o planner"):
        run(Plain(lambda task: ["7"], name), tmp_path)
    assert len(list(tmp_path.glob("*.jsonl"))) == 5
    assert sorted(row["name"] for row in scored(tmp_path)) == sorted(
        ["a/b", "../up", "ä", "x" * 300, "mars w/o planner"]
    )


def test_times_are_measured_only_where_tasks_do_not_wait_for_one_another(tmp_path):
    class Parallel(Method):
        name = "parallel"
        in_flight = 4

        async def rank(self, context):
            return ["7"]

    run(Parallel(), tmp_path)
    run(Plain(lambda task: ["7"]), tmp_path)
    timed = {row["name"]: row["latency_p50"] for row in scored(tmp_path)}
    assert timed["parallel"] is None and timed["plain"] > 0


def test_odd_numbers_beside_an_answer_are_plain_or_left_out(tmp_path):
    odd = [
        Ranking(["7"], well_formed=np.bool_(True), tool_calls=np.int64(2), confidence=np.float32(0.5), tokens_out=3.0),
        Ranking(["7"], tool_calls=float("nan"), calls="many", confidence=float("inf"), trace={"scores": np.zeros(2)}),
        Ranking(["7"], failure=ValueError("half"), tokens_in=[], seconds=10**400),
    ]

    class Counts(Method):
        name = "counts"

        async def rank(self, context):
            return odd[int(context.task.task_id[1:]) % 3]

    run(Counts(), tmp_path, TASKS[:3])
    first, second, third = results.table_of(runner.read_answers(tmp_path, TASKS[:3])).to_pylist()
    assert (first["well_formed"], first["tool_calls"], first["confidence"], first["tokens"]) == (True, 2, 0.5, 3)
    assert (second["rank"], second["tool_calls"], second["calls"], second["confidence"]) == (1, None, None, None)
    assert (third["rank"], third["failure"], third["tokens_in"]) == (1, "error: half", None)


def test_a_trace_is_kept_for_reading(tmp_path):
    class Talker(Method):
        name = "talker"

        async def rank(self, context):
            return Ranking(["7"], trace={"messages": [{"role": "assistant", "content": "\ud800é"}]})

    run(Talker(), tmp_path, TASKS[:1])
    row = json.loads((tmp_path / "talker.jsonl").read_text().splitlines()[1])
    assert row["trace"]["messages"][0]["role"] == "assistant"
