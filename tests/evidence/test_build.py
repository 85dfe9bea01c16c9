import hashlib
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_rl.chat import ChatOptions
from star_rl.errors import StarError
from star_rl.evidence import Catalogue, EvidenceStore, Template, build, commands
from star_rl.evidence.build import build_store, price
from star_rl.evidence.leak import contains_of, visible_fingerprint
from star_rl.files import sha256
from star_rl.records import INTERACTIONS, ITEMS, Task, tasks_to, write_table
from tests.evidence import evidence_world as world

FACTS = {"scenario": "classic", "fingerprint": "data-1"}


def test_every_key_is_put_into_words(tmp_path):
    sources = {"ItemCF": world.neighbours(700), "UserCF": world.neighbours(40, "u", seed=6)}
    seen = []
    template = Template(Catalogue(world.items()))
    manifest = build_store(
        tmp_path / "s", sources, template, histories=world.history, progress=lambda *at: seen.append(at), **FACTS
    )
    assert manifest["tools"] == {"ItemCF": 700, "UserCF": 40} and manifest["outcomes"] == {"template": 740}
    assert manifest["about"]["verbaliser"] == "template" and seen == [(256, 740), (512, 740)]
    store = EvidenceStore.open(tmp_path / "s", "classic", "data-1")
    for tool, table in sources.items():
        for row in table.to_pylist():
            near = list(zip(row["neighbours"], row["weights"], row["support"], strict=True))
            past = world.history(row["key"]) if tool == "UserCF" else ()
            assert store.get(tool, row["key"]) == template(tool, row["key"], near, past).text
            assert store.neighbours(tool, row["key"]) == [(one, weight) for one, weight, _ in near]
    assert "so there is no evidence" in store.get("ItemCF", "i16")
    assert store.entry("ItemCF", "i7")["structured"]["title"] == "Film 7"
    assert "title" not in store.entry("ItemCF", "i600")["structured"] | store.entry("UserCF", "u7")["structured"]


def test_workers_files_and_chunks_do_not_change_a_byte(tmp_path):
    table = world.neighbours(1500)
    pq.write_table(table, tmp_path / "near.parquet", row_group_size=100)
    template = Template(Catalogue(world.items()))
    build_store(tmp_path / "a", {"ItemCF": table}, template, **FACTS)
    build_store(tmp_path / "b", {"ItemCF": tmp_path / "near.parquet"}, template, workers=2, **FACTS)
    shuffled = table.take(random.Random(1).sample(range(1500), 1500))
    build_store(tmp_path / "c", {"ItemCF": shuffled}, template, **FACTS)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b") == sha256(tmp_path / "c")


def test_a_sealed_store_is_found_and_another_is_not_overwritten(tmp_path):
    sources, template = {"ItemCF": world.neighbours(5)}, Template(Catalogue(world.items()))
    first = build_store(tmp_path / "s", sources, template, **FACTS)
    before = (tmp_path / "s" / "manifest.json").stat().st_mtime_ns
    assert build_store(tmp_path / "s", sources, template, **FACTS) == first
    assert (tmp_path / "s" / "manifest.json").stat().st_mtime_ns == before
    for change in ({"scenario": "long_term"}, {"fingerprint": "data-2"}, {"shards": 2}):
        with pytest.raises(StarError):
            build_store(tmp_path / "s", sources, template, **{**FACTS, **change})
    with pytest.raises(StarError, match="other settings"):
        build_store(tmp_path / "s", sources, Template(template.catalogue, budget=50), **FACTS)


def test_inputs_that_are_not_neighbours(tmp_path):
    template = Template(Catalogue({}))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "short.parquet")
    for source, words in (
        (tmp_path / "absent.parquet", "there is no table of neighbours"),
        (tmp_path / "bad.parquet", "not a readable Parquet file"),
        (tmp_path / "short.parquet", "lack the column"),
        (pa.table({"key": ["a"]}), "lack the column"),
    ):
        with pytest.raises(StarError, match=words):
            build_store(tmp_path / "s", {"ItemCF": source}, template, **FACTS)
    with pytest.raises(StarError, match="no tool 'X'"):
        build_store(tmp_path / "s", {"X": world.neighbours(1)}, template, **FACTS)


# ------------------------------------------------------------------------------------------------------------ model


def test_a_model_builds_a_store_with_bounded_concurrency(tmp_path):
    class Watched(world.Model):
        flying = most = 0

        def __call__(self, messages):
            with self.lock:
                self.flying += 1
                self.most = max(self.most, self.flying)
            try:
                return super().__call__(messages)
            finally:
                self.flying -= 1

    chat = Watched(wait=0.005)
    template, sources = Template(Catalogue(world.items())), {"ItemCF": world.neighbours(120)}
    with world.serving(chat) as url:
        model = world.language_model(url, tmp_path / "replies.db", template, concurrency=5, price_prompt=1.0)
        estimate = price(sources, model, sample=50)
        assert estimate["keys"] == 120 and chat.calls == 0 and 0 < estimate["sampled"] <= 60
        manifest = build_store(tmp_path / "s", sources, model, **FACTS)
    assert 1 < chat.most <= 5 and sum(manifest["outcomes"].values()) == 120
    assert manifest["about"]["chat"]["model"] == "m"
    assert {name: manifest["about"][name] for name in ("size", "budget", "categories")} == {
        "size": "full",
        "budget": 512,
        "categories": 5,
    }
    assert EvidenceStore.inspect(tmp_path / "s").entry("ItemCF", "i7")["structured"]["title"] == "Film 7"
    assert price(sources, world.language_model(url, tmp_path / "replies.db", template))["paid_already"] == 1.0


def test_a_model_that_dies_leaves_a_build_that_goes_on(tmp_path):
    class Dying(world.Model):
        def __call__(self, messages):
            return 503 if self.calls >= 30 else super().__call__(messages)

    template = Template(Catalogue(world.items()))
    sources = {"ItemCF": world.neighbours(120)}

    def run(chat):
        with world.serving(chat) as url:
            model = world.language_model(url, tmp_path / "replies.db", template, concurrency=4, patience=4, retries=2)
            return build_store(tmp_path / "s", sources, model, **FACTS)

    with pytest.raises(StarError, match="nothing paid is lost"):
        run(Dying())
    chat = world.Model()
    assert run(chat)["entries"] == 120
    undisturbed = world.Model()
    with world.serving(undisturbed) as url:
        build_store(tmp_path / "o", sources, world.language_model(url, tmp_path / "other.db", template), **FACTS)
    assert chat.calls <= undisturbed.calls - 25


@pytest.fixture
def endpoint():
    """URL and questions of a model that fails every fifth call."""
    asked = []

    def answer(messages):
        asked.append(messages)
        return 503 if len(asked) % 5 == 2 else world.answer(messages)

    with world.serving(answer) as url:
        yield url, asked


# --------------------------------------------------------------------------------------------------- leaks, commands


def interactions(rows):
    columns = list(zip(*rows, strict=True)) if rows else [[], [], []]
    empty = [None] * len(rows)
    return pa.table([*map(list, columns), empty, empty], schema=INTERACTIONS)


def task(number, user, truth):
    candidates = (truth, *(f"n{one}" for one in range(19)))
    return Task(f"t{number}", "world", "classic", user, candidates, truth, 100)


VISIBLE = [("u0", "i1", 1), ("u0", "i2", 2), ("u1", "i5", 1), ("u3", "i9", 4)]


def test_fingerprint_does_not_depend_on_chunks():
    table = interactions(VISIBLE)
    split = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert visible_fingerprint(split) == visible_fingerprint(table)
    seen = {visible_fingerprint(table)}
    for other in (VISIBLE[:3], VISIBLE[::-1], [("u0i", "1", 1), *VISIBLE[1:]], [("u0", "i1", 2), *VISIBLE[1:]], []):
        seen.add(visible_fingerprint(interactions(other)))
    assert len(seen) == 6


@pytest.mark.parametrize("rows", [0, 1, 99])
def test_the_fingerprint_of_a_file_is_that_of_its_table(tmp_path, rows):
    table = interactions([(f"ü{k // 4}", f"i{'x' * (k % 3)}", k) for k in range(rows)])
    pq.write_table(table, tmp_path / "interactions.parquet", row_group_size=5)
    columns = [[value.encode() for value in table[name].to_pylist()] for name in ("user_id", "item_id")]
    parts = [np.array([len(value) for value in ids], "<i8").tobytes() for ids in columns]
    parts += [*map(b"".join, columns), np.array(table["timestamp"].to_pylist(), "<i8").tobytes()]
    known = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]
    coded = table.set_column(0, "user_id", table["user_id"].dictionary_encode())
    for form in (table, coded, tmp_path, tmp_path / "interactions.parquet"):
        assert visible_fingerprint(form) == known


def test_as_many_workers_as_there_are_cores_and_keys_for(tmp_path, monkeypatch):
    assert [build._workers(keys) for keys in (0, 9_999)] == [1, 1]
    monkeypatch.setattr(build.os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert [build._workers(keys) for keys in (19_999, 29_999, 10**6)] == [1, 2, 3]
    monkeypatch.setattr(build, "_KEYS_OF_A_WORKER", 300)
    sources, template = {"ItemCF": world.neighbours(700)}, Template(Catalogue(world.items()))
    one = build_store(tmp_path / "one", sources, template, **FACTS)
    assert build_store(tmp_path / "two", sources, template, workers=None, **FACTS) == one


def test_a_store_that_saw_a_target_is_refused(tmp_path):
    table = interactions(VISIBLE)
    mark = visible_fingerprint(table)
    good, bad = [task(0, "u0", "i7"), task(1, "u1", "i2")], [task(2, "u3", "i9")]
    sources, template = {"ItemCF": world.neighbours(5)}, Template(Catalogue(world.items()))
    with pytest.raises(StarError, match=r"task t2: the visible data hold its target \(user 'u3', item 'i9'\)"):
        facts = {"tasks": bad, "contains": contains_of(table, bad)}
        build_store(tmp_path / "s", sources, template, scenario="classic", fingerprint=mark, **facts)
    assert not (tmp_path / "s").exists()
    facts = {"tasks": good, "contains": contains_of(table, good)}
    build_store(tmp_path / "s", sources, template, scenario="classic", fingerprint=mark, **facts)
    store = EvidenceStore.open(tmp_path / "s", "classic", mark, good[::-1])
    store.check_targets(good[:1], contains_of(table, good))
    with pytest.raises(StarError, match="holds no proof"):
        EvidenceStore.open(tmp_path / "s", "classic", mark, good[:1])
    with pytest.raises(StarError, match="was built from data"):
        EvidenceStore.open(tmp_path / "s", "classic", "other", good)
    with pytest.raises(StarError, match="hold its target"):
        store.check_targets(bad, contains_of(table, bad))


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"item_id": item.item_id, "title": item.title, "categories": list(item.categories), "attributes": "{}"}
        for item in world.items().values()
    ]
    write_table(tmp_path / "items.parquet", pa.Table.from_pylist(rows, schema=ITEMS), "items")
    write_table(tmp_path / "interactions.parquet", interactions(VISIBLE), "interactions")
    write_table(tmp_path / "tasks.parquet", tasks_to([task(0, "u0", "i7")]), "tasks")
    pq.write_table(world.neighbours(30), tmp_path / "near_items.parquet")
    pq.write_table(world.neighbours(10, "u"), tmp_path / "near_users.parquet")
    return tmp_path


def options(folder, **more):
    return {
        "tables": folder,
        "visible": folder,
        "scenario": "classic",
        "item_neighbours": folder / "near_items.parquet",
        "user_neighbours": folder / "near_users.parquet",
        "tasks": folder,
        **more,
    }


def test_commands(folder):
    text = commands.build(folder / "store", **options(folder, size="short"))
    assert "40 entries: ItemCF 30, UserCF 10; by template 40" in text
    text = commands.verify(folder / "store")
    assert "sound. 40 entries" in text and "without the targets of 1 tasks" in text
    text = commands.inspect(folder / "store", "UserCF", "u0")
    assert "UserCF u0" in text and "20 neighbours" in text and '"categories"' in text and '"why"' in text
    with pytest.raises(StarError, match=r"holds nothing of UserCF '‹/plan>'.*ItemCF 30, UserCF 10"):
        commands.inspect(folder / "store", "UserCF", "</plan>")
    with pytest.raises(StarError, match="no neighbours are named"):
        commands.build(folder / "other", **options(folder, item_neighbours=None, user_neighbours=None))
    with pytest.raises(StarError, match="nothing to price"):
        commands.build(folder / "other", **options(folder, dry_run=True))


def test_reasons_come_from_the_visible_history(folder):
    commands.build(folder / "store", **options(folder))
    with EvidenceStore.inspect(folder / "store") as store:
        assert "of the user's 2 past choices" in store.get("UserCF", "u0")
        assert "past choices" not in store.get("UserCF", "u2")


def test_commands_with_a_model(folder, endpoint):
    place, asked = endpoint
    chat = ChatOptions((place,), concurrency=4, backoff=0.01, price_prompt=1.0, price_completion=2.0)
    text = commands.build(folder / "store", **options(folder, chat=chat, dry_run=True))
    assert "40 keys" in text and "0% paid already" in text and not asked
    text = commands.build(folder / "store", **options(folder, chat=chat))
    assert "by llm 39, template 1" in text
    calls = len(asked)
    account = json.loads((folder / "store.account.json").read_text())
    assert account["calls"] == account["cache"]["replies"] == 39 and account["cost"] == account["cache"]["cost"] > 0
    assert commands.build(folder / "store", **options(folder, chat=chat)) == text
    assert len(asked) == calls
    named = ChatOptions((place,), model="small", price_prompt=1.0)
    assert "100% paid already" in commands.build(folder / "store", **options(folder, chat=named, dry_run=True))
    commands.build(folder / "other", **options(folder, chat=named, dry_run=True))
    assert not list(folder.glob("other*"))
