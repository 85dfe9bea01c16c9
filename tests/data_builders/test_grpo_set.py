"""The GRPO set: rounding, buckets, shortfalls, and rows as verl reads them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_rl.data_builders import grpo_set
from star_rl.data_builders.grpo_set import (
    GrpoSetOptions,
    bounds_for,
    build_grpo,
    compose,
    largest_total,
    read_records,
    row,
    rows_for,
    solved,
    write,
)
from star_rl.errors import StarError
from star_rl.files import write_jsonl
from star_rl.pipeline.stage import Context
from star_rl.prompts import Slots
from star_rl.records import Task
from star_rl.run import Run
from star_rl.trajectory import compact_json

CANDIDATES = tuple(str(number) for number in range(20))


def task(number: int, source: str = "amazon", scenario: str = "classic") -> Task:
    return Task(f"t{number}", source, scenario, f"u{number}", CANDIDATES, "7", 100)


def prompt(one: Task) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Rank."}, {"role": "user", "content": f"User {one.user_id}"}]


def answer(hit: bool, truth: str = "7") -> str:
    return f"<recommend><JSON>{compact_json([truth if hit else '8'])}</JSON></recommend>"


def sampled(counts: list[int], samples: int = 8) -> tuple[list[Task], list[dict[str, Any]]]:
    """One task for each number of successes."""
    tasks = [task(number, ("amazon", "yelp")[number % 2]) for number in range(len(counts))]
    records = [
        {"task_id": one.task_id, "sample": number, "model_text": answer(number < count)}
        for one, count in zip(tasks, counts, strict=True)
        for number in range(samples)
    ]
    return tasks, records


@pytest.mark.parametrize(
    ("total", "expected"),
    [(500, (150, 200, 150)), (470, (141, 188, 141)), (486, (146, 194, 146)), (10, (3, 4, 3)), (1, (0, 1, 0))],
)
def test_the_papers_totals(total: int, expected: tuple[int, int, int]) -> None:
    assert tuple(compose(total).values()) == expected


@given(st.integers(0, 100_000))
def test_composition_keeps_the_total_and_is_nearest(total: int) -> None:
    counts = compose(total)
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - total * share / 10) < 1 for name, share in grpo_set.RATIO.items())


@given(st.fixed_dictionaries({name: st.integers(0, 60) for name in grpo_set.RATIO}))
def test_the_largest_total_fits_and_no_larger_one_does(available: dict[str, int]) -> None:
    total = largest_total(available)
    assert all(compose(total)[name] <= available[name] for name in available)
    for more in range(total + 1, 250):
        assert any(compose(more)[name] > available[name] for name in available)


def test_bounds() -> None:
    assert bounds_for(8) == {"easy": (6, 7), "medium": (3, 5), "hard": (1, 2)}
    assert bounds_for(16) == {"easy": (12, 15), "medium": (6, 11), "hard": (1, 5)}
    assert bounds_for(4) == {"easy": (3, 3), "medium": (2, 2), "hard": (1, 1)}


@given(st.integers(4, 200))
def test_bounds_cover_every_number_of_successes_once(samples: int) -> None:
    covered = sorted(count for low, high in bounds_for(samples).values() for count in range(low, high + 1))
    assert covered == list(range(1, samples))


def test_buckets_by_successes() -> None:
    tasks, records = sampled(list(range(9)))
    rows, audit = build_grpo(records, tasks, prompt, GrpoSetOptions(total=7))
    found = {entry["extra_info"]["successes"]: entry["extra_info"]["difficulty"] for entry in rows}
    names = {1: "hard", 2: "hard", 3: "medium", 4: "medium", 5: "medium", 6: "easy", 7: "easy"}
    assert found.items() <= names.items()
    assert audit["available"] == {"easy": 2, "medium": 3, "hard": 2}
    assert audit["dropped"]["never_solved"] == audit["dropped"]["always_solved"] == 1


def test_a_bucket_that_is_too_small_stays_short() -> None:
    tasks, records = sampled([7] * 100 + [4] * 100 + [1] * 10)
    rows, audit = build_grpo(records, tasks, prompt, GrpoSetOptions(total=100))
    assert audit["wanted"] == {"easy": 30, "medium": 40, "hard": 30}
    assert audit["taken"] == {"easy": 30, "medium": 40, "hard": 10}
    assert audit["shortfall"] == {"easy": 0, "medium": 0, "hard": 20}
    assert audit["total"] == len(rows) == 80


@pytest.mark.parametrize(
    ("counts", "total", "taken"),
    [
        ([1] * 66, "max", {"easy": 0, "medium": 0, "hard": 66}),
        ([1] * 66, 40, {"easy": 0, "medium": 0, "hard": 40}),
        ([1] * 66, 100, {"easy": 0, "medium": 0, "hard": 66}),
        ([7] * 5 + [4] * 50, "max", {"easy": 5, "medium": 50, "hard": 0}),
        ([7] * 5 + [4] * 50, 40, {"easy": 5, "medium": 35, "hard": 0}),
        ([7] * 30 + [4] * 40 + [1] * 30, 50, {"easy": 15, "medium": 20, "hard": 15}),
        ([0] * 5 + [8] * 5 + [1], "max", {"easy": 0, "medium": 0, "hard": 1}),
    ],
)
def test_filled_sets_take_what_there_is(counts: list[int], total: Any, taken: dict[str, int]) -> None:
    tasks, records = sampled(counts)
    rows, audit = build_grpo(records, tasks, prompt, GrpoSetOptions(total=total, fill=True))
    assert audit["taken"] == taken and audit["total"] == len(rows) == sum(taken.values())
    assert [entry["extra_info"]["index"] for entry in rows] == list(range(len(rows)))
    assert len({entry["extra_info"]["task_id"] for entry in rows}) == len(rows)
    assert all(value >= 0 for name in ("shortfall", "unused") for value in audit[name].values())


def test_a_filled_set_keeps_the_choice_of_one_that_is_not() -> None:
    tasks, records = sampled([7] * 30 + [4] * 10 + [1] * 30)
    plain, filled = (
        build_grpo(records, tasks, prompt, GrpoSetOptions(total=50, fill=fill))[0] for fill in (False, True)
    )
    ids = [{entry["extra_info"]["task_id"] for entry in rows} for rows in (plain, filled)]
    assert ids[0] < ids[1] and len(ids[1]) == 50


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([1] * 66, "composed 3:4:3 of 66 instances.*all 66 as they are with grpo_set.fill=true"),
        ([7] * 9, "composed 3:4:3 of 9 instances.*grpo_set.fill=true"),
        ([0] * 9, "no instance is left.*sample more instances"),
    ],
)
def test_a_set_that_cannot_be_composed_names_the_way_on(tmp_path: Path, counts: list[int], words: str) -> None:
    tasks, records = sampled(counts)
    rows, audit = build_grpo(records, tasks, prompt, GrpoSetOptions())
    with pytest.raises(StarError, match=words) as error:
        write(tmp_path, "train", rows, audit)
    assert ("fill" in str(error.value)) == ("fill" in words)


def test_max_keeps_the_ratio() -> None:
    tasks, records = sampled([7] * 100 + [4] * 100 + [1] * 10)
    _, audit = build_grpo(records, tasks, prompt, GrpoSetOptions(total="max"))
    assert audit["taken"] == compose(audit["total"])
    assert audit["taken"]["hard"] == 10
    assert set(audit["shortfall"].values()) == {0}


def test_the_histogram_counts_every_rated_instance() -> None:
    source = random.Random(0)
    counts = [source.randrange(9) for _ in range(300)]
    tasks, records = sampled(counts)
    _, audit = build_grpo(records, tasks, prompt, GrpoSetOptions(total=50))
    histogram = audit["histogram"]
    assert [(entry["source"], entry["scenario"]) for entry in histogram] == [("amazon", "classic"), ("yelp", "classic")]
    for count in range(9):
        assert sum(entry["successes"][count] for entry in histogram) == counts.count(count)
    assert sum(sum(entry["taken"].values()) for entry in histogram) == 50
    assert audit["hr1"] == pytest.approx(sum(counts) / (8 * 300))
    json.dumps(audit)


def test_the_seed_decides_and_nothing_else() -> None:
    tasks, records = sampled([7, 4, 1] * 100)
    shuffled = records[::-1]
    first, _ = build_grpo(records, tasks, prompt, GrpoSetOptions(total=100, seed=3))
    assert build_grpo(shuffled, tasks[::-1], prompt, GrpoSetOptions(total=100, seed=3))[0] == first
    other, _ = build_grpo(records, tasks, prompt, GrpoSetOptions(total=100, seed=4))
    assert {entry["extra_info"]["task_id"] for entry in other} != {entry["extra_info"]["task_id"] for entry in first}
    assert [entry["extra_info"]["index"] for entry in first] == list(range(100))


def test_fewer_samples_have_bounds_of_their_own() -> None:
    tasks, records = sampled([3, 2, 1, 0, 4], samples=4)
    _, audit = build_grpo(records, tasks, prompt, GrpoSetOptions(samples=4))
    assert audit["taken"] == {"easy": 1, "medium": 1, "hard": 1}


def test_success_is_the_truth_in_the_first_place() -> None:
    one = task(0)
    said = '<recommend><JSON>["7", "3"]</JSON></recommend>'
    assert solved({"model_text": said}, one) is True
    assert solved({"model_text": said.replace("7", "8")}, one) is False
    assert solved({"model_text": None}, one) is False
    assert solved({"model_text": "noise <JSON>"}, one) is False
    assert solved({"model_text": said.replace('"7"', "7")}, one) is False
    assert solved({"model_text": said, "stop": "engine_error"}, one) is None
    assert solved({"model_text": said, "stop": "answered"}, one) is True
    with pytest.raises(StarError, match="no model_text"):
        solved({}, one)


def test_incomplete_and_repeated_samples() -> None:
    tasks, records = sampled([4, 4, 4, 4])
    records = [entry for entry in records if entry["task_id"] != "t3"]
    records[0]["stop"] = "engine_error"  # t0, sample 0: the engine failed
    records = [*records, {**records[8]}]  # t1, sample 0, twice
    _, audit = build_grpo(records, tasks, prompt, GrpoSetOptions(total=1))
    assert audit["rated"] == 2 and audit["dropped"]["incomplete"] == 1 and audit["dropped"]["not_sampled"] == 1
    assert audit["records"] == {"twice": 1, "failed": 1}


def test_a_sample_that_failed_and_was_sampled_again_counts() -> None:
    tasks, records = sampled([4])
    records.insert(0, {"task_id": "t0", "sample": 0, "stop": "aborted", "model_text": ""})
    assert build_grpo(records, tasks, prompt, GrpoSetOptions(total=1))[1]["rated"] == 1


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"task_id": "other", "sample": 0, "hit": True}, "'other', which is not among the 1 tasks"),
        ({"sample": 0, "hit": True}, "None, which is not among"),
        ({"task_id": "t0", "sample": 8, "hit": True}, "sample 8"),
        ({"task_id": "t0", "sample": -1, "hit": True}, "sample -1"),
        ({"task_id": "t0", "hit": True}, "sample None"),
        ({"task_id": "t0", "sample": True, "hit": True}, "sample True"),
    ],
)
def test_records_that_do_not_belong_are_refused(record: dict[str, Any], words: str) -> None:
    with pytest.raises(StarError, match=words):
        build_grpo([record], [task(0)], prompt, GrpoSetOptions())


@pytest.mark.parametrize(
    ("option", "value"),
    [("total", 0), ("total", -3), ("total", "all"), ("total", True), ("total", 1.5), ("samples", 3)],
)
def test_options_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(StarError, match=f"{option}={value!r}"):
        GrpoSetOptions(**{option: value})


def test_faulty_tasks_are_refused() -> None:
    with pytest.raises(StarError, match="t1 is there twice"):
        build_grpo([], [task(1), task(1)], prompt, GrpoSetOptions())
    foreign = Task("t1", "amazon", "classic", "u", CANDIDATES, "99", 1)
    with pytest.raises(StarError, match="'99' of task t1"):
        build_grpo([], [foreign], prompt, GrpoSetOptions())


def test_a_prompt_must_end_with_the_users_message() -> None:
    tasks, records = sampled([4])
    with pytest.raises(StarError, match="does not end with the user's message"):
        build_grpo(records, tasks, lambda task: [], GrpoSetOptions(total=1))


def test_rows_as_verl_reads_them(tmp_path: Path) -> None:
    tasks, records = sampled([7, 4, 1] * 10)
    rows, audit = build_grpo(
        records,
        tasks,
        prompt,
        GrpoSetOptions(total=10, required=("plan", "recommend"), top=5),
    )
    path = write(tmp_path / "set", "train", rows, audit)
    table = pq.read_table(path)
    assert table.schema.equals(grpo_set.SCHEMA)
    for read, made in zip(table.to_pylist(), rows, strict=True):
        assert read == made
        assert read["agent_name"] == "star_agent" and read["data_source"] in ("amazon", "yelp")
        assert read["reward_model"] == {"style": "rule", "ground_truth": "7"}
        assert [message["role"] for message in read["prompt"]] == ["system", "user"]
        info = read["extra_info"]
        assert info["candidates"] == list(CANDIDATES) and info["required"] == ["plan", "recommend"] and info["top"] == 5
        assert set(info["tools_kwargs"]) == set(grpo_set.TOOLS) and info["need_tools_kwargs"] is True
        assert [name for name, value in info.items() if value is None] == ["slots", "follow_up"]
    assert json.loads((tmp_path / "set" / "train.audit.json").read_text()) == json.loads(json.dumps(audit))
    assert sorted(entry.name for entry in (tmp_path / "set").iterdir()) == ["train.audit.json", "train.parquet"]


def test_a_row_in_slots_says_what_the_record_stands_for(tmp_path: Path) -> None:
    made = rows_for([task(0)], prompt, GrpoSetOptions(), lambda given: Slots("u", given.candidates, ["9", "8"], 1))
    read = pq.read_table(write(tmp_path / "set", "valid", made, {"total": 1})).to_pylist()
    assert read[0]["extra_info"]["slots"] == {"user": "u", "record": ["9", "8"], "together": 1}
    assert read[0]["extra_info"]["candidates"] == list(CANDIDATES)


def test_the_reward_reads_a_row(tmp_path: Path) -> None:
    from star_rl.rewards import star
    from tests.rewards.adversarial import response

    made = row(task(0), prompt(task(0)), 0, GrpoSetOptions(), "train")
    scores = star.compute_score(
        made["data_source"], response(), made["reward_model"]["ground_truth"], made["extra_info"]
    )
    assert scores["score"] == 2.0


def test_validation_rows_keep_their_order() -> None:
    made = rows_for([task(3), task(1)], prompt, GrpoSetOptions())
    assert [entry["extra_info"]["task_id"] for entry in made] == ["t3", "t1"]
    assert made[0]["extra_info"]["difficulty"] == "unrated" and made[0]["extra_info"]["successes"] == -1


def test_an_empty_set_is_an_error(tmp_path: Path) -> None:
    tasks, records = sampled([0, 8, 8])
    rows, audit = build_grpo(records, tasks, prompt, GrpoSetOptions(total=10))
    assert rows == [] and audit["shortfall"] == {"easy": 3, "medium": 4, "hard": 3}
    with pytest.raises(StarError, match="no instance is left"):
        write(tmp_path, "train", rows, audit)
    assert list(tmp_path.iterdir()) == []


def test_records_are_read_from_lines(tmp_path: Path) -> None:
    _, records = sampled([3, 5])
    write_jsonl(tmp_path / "a.jsonl", records)
    assert list(read_records(tmp_path / "a.jsonl")) == records
    with pytest.raises(StarError, match="there are no rollouts"):
        list(read_records(tmp_path / "b.jsonl"))
    (tmp_path / "d.jsonl").write_text("[1]\n")
    with pytest.raises(StarError, match=r"d\.jsonl holds \[1\], which is no rollout"):
        list(read_records(tmp_path / "d.jsonl"))


@pytest.mark.parametrize("text", [None, 5, ["<recommend>"], {}])
def test_a_response_that_is_no_text_is_no_success(text: Any) -> None:
    assert solved({"task_id": "t0", "sample": 0, "model_text": text}, task(0)) is False


def test_ugly_ids_and_titles_survive(tmp_path: Path) -> None:
    ugly = Task("t\x00\u2028/..", "yelp", "long_term", "'; --", ("a\n", "\U0001f4da", "</plan>"), "</plan>", 1)
    records = [
        {"task_id": ugly.task_id, "sample": number, "model_text": answer(number < 4, "</plan>")} for number in range(8)
    ]
    rows, audit = build_grpo(records, [ugly], prompt, GrpoSetOptions(total=1))
    (read,) = pq.read_table(write(tmp_path, "train", rows, audit)).to_pylist()
    assert read["extra_info"]["task_id"] == ugly.task_id and read["reward_model"]["ground_truth"] == "</plan>"


def test_the_stage_says_what_it_leaves_over_and_fills_when_asked(run: Path, tmp_path: Path) -> None:
    opened = Run.open(run)
    tasks = opened.tasks("train")[:30]
    hits = {one.task_id: (4 if number == 0 else 1) for number, one in enumerate(tasks)}
    rollouts = [
        {"task_id": one.task_id, "sample": sample, "model_text": answer(sample < hits[one.task_id], one.ground_truth)}
        for one in tasks
        for sample in range(8)
    ]
    write_jsonl(tmp_path / "rollouts.jsonl", rollouts)
    made = {}
    for fill in (False, True):
        config = {**opened.config, "grpo_set": {"total": "max", "fill": fill, "validation": 0}, "sample": {"n": 8}}
        context = Context(tmp_path / str(fill), config, 7, {"sample": tmp_path}, run, lambda *now: None)
        made[fill] = grpo_set.build(context)
    assert made[False]["total"] == 1 and "29 left over (grpo_set.fill=true takes them)" in made[False]["summary"]
    assert made[True]["taken"] == {"easy": 0, "medium": 1, "hard": 29} and "left over" not in made[True]["summary"]
    assert pq.read_metadata(tmp_path / "True" / "train.parquet").num_rows == 30
