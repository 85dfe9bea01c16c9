"""What is held out reaches nothing that a model reads.

Held out of a task are the ground truth and all else that its user did at or after the cutoff. The tests run the stages
as a recipe does (tasks, neighbours, evidence, then prompts) on small random worlds, and once more with the held-out
rows removed, replaced, multiplied, moved or rated otherwise: not one byte of what a model reads may differ. Worlds that
are made to leak on purpose show that this finds a leak.
"""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import star_rl.data_builders.evidence
import star_rl.data_builders.neighbours
import star_rl.data_builders.tasks
from star_rl.errors import StarError
from star_rl.evidence import EvidenceStore
from star_rl.pipeline.stage import Context
from star_rl.prompts import Case
from star_rl.prompts.agents import Brief, abstractor_messages, agent_messages
from star_rl.prompts.evidence import evidence_messages
from star_rl.prompts.flavours import flavour_of
from star_rl.prompts.student import PromptOptions, student_prompt
from star_rl.records import INTERACTIONS, ITEMS, SCENARIOS, USERS, items_from, read_table, read_tasks, tasks_to
from star_rl.scenarios import Histories, Reviews, SplitOptions, Tables, split
from star_rl.tools import LENSES, ToolBox
from tests.scenarios import leaks

ITEM_COUNT = 48
DAY = 86_400
#: Thresholds under which small worlds have tasks of all five scenarios.
RULES = {"cold_user": 3, "cold_item": 1, "active": 3, "short_days": 3.0, "long_days": 20.0}
NAMES = leaks.NAMES


# ------------------------------------------------------------------------------------------------------------- worlds


def world(seed):
    """Tables of 6 to 12 users who share a few loved items; with ties in time, returns to an item, bursts and pauses."""
    rng = np.random.default_rng(seed)
    love = rng.permutation(ITEM_COUNT)
    rows = []
    for user in range(int(rng.integers(6, 13))):
        stamp = 1_600_000_000 + int(rng.integers(0, 60)) * DAY
        pace = DAY * float(rng.choice([0.2, 2, 15]))
        for _ in range(int(rng.integers(2, 16))):
            item = love[min(int(rng.geometric(0.09)) - 1, ITEM_COUNT - 1)]
            rows.append((f"u{user}", f"i{item}", stamp, float(rng.integers(1, 6)), f"text {rng.integers(99)}"))
            stamp += int(rng.choice([0, 1, 1, 1]) * rng.exponential(pace))
    items = [f"i{number}" for number in range(ITEM_COUNT)]
    kinds = [[f"kind {rng.integers(5)}", f"kind {rng.integers(5)}"] for _ in items]
    users = sorted({row[0] for row in rows})
    return Tables(
        table_of(rows),
        pa.table([items, [f"Title {item}" for item in items], kinds, ["{}"] * len(items)], schema=ITEMS),
        pa.table([users, ['{"age": 30}'] * len(users)], schema=USERS),
        manifest={"source": "test", "time": "seconds"},
    )


def table_of(rows):
    """By user and time, as every source writes them; equal times in the order given."""
    rows = sorted(rows, key=lambda row: (row[0].encode(), row[2]))
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=INTERACTIONS)


def rows_of(table):
    return list(zip(*(table[name].to_pylist() for name in NAMES), strict=True))


def first_split(tables, test, scenario, seed, **more):
    """Options and tasks of a split of all kinds of tasks; None where a world is too small for one."""
    options = {"test": test, "scenario": scenario, "min_history": 1, "test_share": 0.4, "valid_share": 0.2, **RULES}
    options |= more
    try:
        return options, split(tables, options, seed)
    except StarError as error:
        assert "no test task" in str(error)
        return options, None


def with_tasks(tables, tasks):
    """The tables of a source that brings these tasks of its own, and options that make no others."""
    own = replace(tables, tasks=tasks_to(tasks))
    return own, {"test": "tasks", "train_per_user": 0, "valid_share": 0.0, "min_history": 1}


def levels_of(tasks, rng):
    """For every user of a task one of the cutoffs: rows from there on are held out of all tasks up to it."""
    cuts = {}
    for task in tasks:
        cuts.setdefault(task.user_id, []).append(task.cutoff)
    return {user: int(rng.choice(sorted(found))) for user, found in sorted(cuts.items())}


CHANGES = ("removed", "replaced", "multiplied", "moved", "rated")


def changed(tables, levels, how, rng):
    """The same world with other held-out rows; all other rows are as they were."""
    out = []
    for user, item, stamp, rating, text in rows_of(tables.interactions):
        level = levels.get(user)
        if level is None or stamp < level:
            out.append((user, item, stamp, rating, text))
        elif how == "replaced":
            out.append((user, f"i{rng.integers(ITEM_COUNT)}", stamp, 1.0, None))
        elif how == "multiplied":
            out += [(user, item, stamp, rating, text)] * 2
            out += [(user, f"i{rng.integers(ITEM_COUNT)}", stamp + k, 2.0, "more") for k in range(2)]
        elif how == "moved":
            out.append((user, item, stamp + int(rng.integers(0, 400)) * DAY, rating, text))
        elif how == "rated":
            out.append((user, item, stamp, None, "another text"))
    return replace(tables, interactions=table_of(out))


# ------------------------------------------------------------------------------------------------ what a model reads


def stages(folder, tables, options, seed, window):
    """The stages tables to evidence of a recipe, in ``folder``; returns each one's folder."""
    places = {name: folder / name for name in ("tables", "tasks", "neighbours", "evidence")}
    for place in places.values():
        place.mkdir(parents=True)
    config = {
        "split": {"options": options},
        "neighbours": {"items_k": 8, "users_k": 4, "liked_k": 8, "window": window, "weight": "cosine", "threads": 1},
        "evidence": {"size": "full", "budget": None},
    }

    def run(builder, name, *reads):
        inputs = {read: places[read] for read in reads}
        builder.build(Context(places[name], config, seed, inputs, folder, lambda *_: None))

    write = pa.parquet.write_table
    for name in ("interactions", "items", "users", "tasks"):
        if getattr(tables, name) is not None:
            write(getattr(tables, name), places["tables"] / f"{name}.parquet")
    (places["tables"] / "tables.json").write_text(json.dumps(tables.manifest))
    run(star_rl.data_builders.tasks, "tasks", "tables")
    run(star_rl.data_builders.neighbours, "neighbours", "tables", "tasks")
    run(star_rl.data_builders.evidence, "evidence", "tables", "tasks", "neighbours")
    return places


def read_by_models(folder, tables, options, seed, window=0):
    """All that a model may read: name -> bytes, of one task (task, name) -> bytes; and the tasks."""
    places = stages(folder, tables, options, seed, window)
    out = {}
    for place in (places["tasks"] / "visible.parquet", *places["neighbours"].iterdir()):
        out[place.name] = place.read_bytes()
    for place in sorted((places["evidence"] / "store").rglob("*")):
        if place.is_file():
            out[f"store {place.name}"] = place.read_bytes()
    tasks = [task for part in star_rl.data_builders.tasks.PARTS for task in read_tasks(places["tasks"], part)]
    items = items_from(tables.items)
    histories, reviews = Histories(tables.interactions), Reviews(tables.interactions)
    visible = Histories(read_table(places["tasks"] / "visible.parquet", "interactions"))
    with EvidenceStore.inspect(places["evidence"] / "store") as store:
        for task in tasks:
            for name, content in read_for(task, histories.history(task), items, store, visible, reviews).items():
                out[task.task_id, name] = content
    return out, tasks


def read_for(task, history, items, store, visible, reviews):
    """Prompts of the student and of the teacher's agents, and the tools' answers, of one task."""
    out = {}
    case = Case.of(task, history, items, {"age": 30}, reviews.of(task.user_id, history))
    for profile in ("full", "compact"):
        options = PromptOptions(profile=profile, budget=8000)
        out[f"student {profile}"] = student_prompt(case, options).messages
    out["case"] = [case.candidates, case.history, case.user_id]
    flavour = flavour_of(task.source)
    brief = Brief(case)
    for agent in ("Planner", "Recent_Interest_Analysis", "Ranker"):  # with candidates and without
        out[agent] = agent_messages(agent, brief, True)
    out["abstractor"] = abstractor_messages(flavour, "", case.history, items, 500)
    calls = [("UserCF", {"user_id": task.user_id}), *(("ItemCF", {"item_id": item}) for item in task.candidates)]
    for lens in LENSES:
        box = ToolBox(store, task.candidates, lens)
        out[f"tools {lens}"] = [box.call(*call).text for call in calls]
    entry = store.entry("UserCF", task.user_id)
    before = [event[0] for event in visible.of_user(task.user_id)]
    rows = [tuple(row) for row in entry["neighbours"]]
    out["verbaliser"] = evidence_messages("UserCF", task.user_id, rows, items, before, flavour)
    return {name: json.dumps(content).encode() for name, content in out.items()}


def check_the_same(one, other, tasks, levels):
    """Byte for byte, for all that belongs to no task and for every task up to its user's level."""
    later = {task.task_id for task in tasks if task.cutoff > levels[task.user_id]}
    assert one.keys() == other.keys()
    differ = [name for name in one if one[name] != other[name] and (isinstance(name, str) or name[0] not in later)]
    assert not differ, f"held-out rows reach {differ[:5]}"


def check_support(folder, tables, tasks, window):
    """Every support in ItemCF and UserCF, counted anew from the rows that may be seen."""
    cut = {}
    for task in tasks:
        cut[task.user_id] = min(task.cutoff, cut.get(task.user_id, task.cutoff))
    owners, latest = {}, {}
    for user, item, stamp, *_ in rows_of(tables.interactions):
        if user not in cut or stamp < cut[user]:
            owners.setdefault(item, set()).add(user)
            latest.setdefault(user, {})[item] = stamp

    def near(item, other):
        """Users who have both, within one window."""
        both = owners[item] & owners[other]
        return {user for user in both if not window or within(user, item, other)}

    def within(user, *pair):
        sequence = sorted(latest[user], key=lambda item: (latest[user][item], item.encode()))
        places = [sequence.index(item) for item in pair]
        return any(len({(place + shift) // window for place in places}) == 1 for shift in (0, window // 2))

    for task in tasks:
        assert task.user_id not in owners.get(task.ground_truth, ())
    with EvidenceStore.inspect(folder / "evidence" / "store") as store:
        assert set(store.keys("ItemCF")) == owners.keys()
        for item in store.keys("ItemCF"):
            for other, _, support in store.entry("ItemCF", item)["neighbours"]:
                assert support == len(near(item, other))
        for user in store.keys("UserCF"):
            own = {item for item, users in owners.items() if user in users}
            similar = {other for item in own for other in owners[item]} - {user}
            for item, _, support in store.entry("UserCF", user)["neighbours"]:
                assert item not in own and 1 <= support <= len(owners[item] & similar)


def check(folder, seed, test="last", scenario="auto", changes=CHANGES, window=0, **more):
    """The property, on one world; returns the scenarios of its training and test tasks, None for too small a world.

    Args:
        more: options that narrow the world: which rows they keep is decided once, from all rows.
    """
    tables = world(seed)
    _, parts = first_split(tables, test, scenario, seed, **more)
    if parts is None:
        return None
    if parts.kept is not None:
        tables = replace(tables, interactions=tables.interactions.take(pa.array(parts.kept)))
    rng = np.random.default_rng(seed + 1)
    own, fixed = with_tasks(tables, parts.tasks)
    one, tasks = read_by_models(folder / "first", own, fixed, seed, window)
    # The tasks are those of the first split, and so are the rows that neighbours see.
    assert [(t.user_id, t.ground_truth, t.cutoff) for t in tasks] == [
        (t.user_id, t.ground_truth, t.cutoff) for t in parts.tasks
    ]
    assert read_table(folder / "first" / "tasks" / "visible.parquet", "interactions").equals(parts.visible)
    check_support(folder / "first", tables, tasks, window)
    for how in changes:
        levels = levels_of(parts.tasks, rng)
        other, _ = read_by_models(folder / how, changed(own, levels, how, rng), fixed, seed, window)
        check_the_same(one, other, tasks, levels)
    return [(part, task.scenario) for part in ("train", "test") for task in getattr(parts, part)]


# -------------------------------------------------------------------------------------------------------- the property


@settings(max_examples=24, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 2),
    test=st.sampled_from(["users", "last"]),
    scenario=st.sampled_from(["auto", "auto", *SCENARIOS]),
    how=st.sampled_from(CHANGES),
    window=st.sampled_from([0, 3]),
)
def test_held_out_rows_change_no_byte_that_a_model_reads(tmp_path_factory, seed, test, scenario, how, window):
    check(tmp_path_factory.mktemp("world"), seed, test, scenario, (how,), window)


def test_fixed_worlds_with_every_scenario_in_training_and_test(tmp_path):
    """The same on worlds that are always run, every change on each; together they hold every scenario twice."""
    seen = Counter()
    for seed in range(6):
        test, window = "last" if seed % 2 else "users", 3 * (seed // 2 % 2)
        seen.update(check(tmp_path / str(seed), seed, test, window=window) or [])
    assert {part for part in seen} == {(part, name) for part in ("train", "test") for name in SCENARIOS}, seen


@pytest.mark.parametrize("seed, test, core", [(0, "users", 2), (3, "last", 2), (1, "last", 0), (2, "users", 0)])
def test_fixed_worlds_that_are_narrowed(tmp_path, seed, test, core):
    assert check(tmp_path, seed, test, core=core, max_history=8, positive=2)


@pytest.mark.parametrize("test", ["users", "last"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_split_of_its_own_is_the_same_where_only_later_returns_differ(tmp_path, test, scenario):
    """The split itself runs twice: returns to items touched before make no other tasks, and must change nothing."""
    for seed in range(2):
        tables = world(seed)
        options, parts = first_split(tables, test, scenario, seed)
        if parts is None:
            continue
        last = {task.user_id: task.cutoff for task in sorted(parts.tasks, key=lambda task: task.cutoff)}
        rows = rows_of(tables.interactions)
        more = [(u, i, last[u] + k, 1.0, "again") for k, (u, i, *_) in enumerate(rows) if u in last]
        later = replace(tables, interactions=table_of([*changed_ratings(rows, last), *more]))
        one, tasks = read_by_models(tmp_path / f"{seed}one", tables, options, seed)
        other, again = read_by_models(tmp_path / f"{seed}other", later, options, seed)
        assert again == tasks
        check_the_same(one, other, tasks, last)


def changed_ratings(rows, last):
    for user, item, stamp, rating, text in rows:
        held = user in last and stamp >= last[user]
        yield (user, item, stamp, None if held else rating, None if held else text)


# ------------------------------------------------------------------------------------- splits that leak are found out


@pytest.mark.parametrize("leak", leaks.LEAKS)
def test_what_leaks_on_purpose_is_found(tmp_path, monkeypatch, leak):
    leaks.LEAKS[leak](monkeypatch)
    found = 0
    for seed in range(3):
        try:
            check_bytes_alone(tmp_path / str(seed), seed)
        except AssertionError as error:
            assert "held-out rows reach" in str(error)
            found += 1
    assert found == 3, f"found in {found} of 3 worlds"


def check_bytes_alone(folder, seed):
    """The metamorphic half of :func:`check`: no expectation of its own, only that two runs agree."""
    tables = world(seed)
    rng = np.random.default_rng(seed)
    parts = split(tables, SplitOptions(test="last", min_history=1), seed)
    own, fixed = with_tasks(tables, parts.tasks)
    one, tasks = read_by_models(folder / "one", own, fixed, seed)
    for how in ("removed", "replaced"):
        levels = levels_of(parts.tasks, rng)
        other, _ = read_by_models(folder / how, changed(own, levels, how, rng), fixed, seed)
        check_the_same(one, other, tasks, levels)
