import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time

import pytest

from star_rl.errors import StarError
from star_rl.evidence import EvidenceStore, EvidenceWriter
from star_rl.evidence import manifest as sealing
from star_rl.evidence.shard import FILE
from star_rl.files import sha256
from tests.evidence import evidence_world as world


def fill(path, entries, shards=1, order=None, **options):
    with EvidenceWriter(path, "classic", "data-1", shards=shards, **options) as writer:
        for tool, key in order or list(entries):
            writer.put(tool, key, *entries[tool, key])
        return writer.seal()


def some(count):
    return {("ItemCF", f"k{number}"): (f"text {number} " * 9, [("n", number / 7)]) for number in range(count)}


def test_gives_back_what_was_put(sealed):
    store = EvidenceStore.open(sealed, "classic", "data-1")
    assert len(store) == 300 and store.manifest["tools"] == {"ItemCF": 150, "UserCF": 150}
    for number in range(300):
        tool = "ItemCF" if number % 2 else "UserCF"
        assert store.get(tool, f"k{number}") == f"text {number} é " * 9
        assert store.neighbours(tool, f"k{number}") == [(f"n{number}", 0.5), ("n2", 0.25)]
        assert store.get("UserCF" if number % 2 else "ItemCF", f"k{number}") is None
    assert store.entry("ItemCF", "k7")["structured"] == {"n": 7}
    assert sorted(store.keys("ItemCF")) == sorted(f"k{number}" for number in range(1, 300, 2))
    assert list(store.keys("Nothing")) == []
    assert store.verify()["entries"] == 300


def test_whatever_a_model_asks_for_is_answered_with_none(sealed):
    store = EvidenceStore.inspect(sealed)
    for key in (*world.UGLY, "k", "k1000", "\ud800", "k0\0", 7, None, ["k0"], {"k": 0}, b"k0", 1.5, True):
        assert store.get("UserCF", key) is None
        assert store.neighbours("UserCF", key) == []
        assert store.entry("UserCF", key) is None
    for tool in ("", "usercf", "UserCF\0k0", None, ["UserCF"], "\ud800"):
        assert store.get(tool, "k0") is None


@pytest.mark.parametrize("shards", [1, 3])
def test_ugly_ids_and_texts_come_back_as_they_were(tmp_path, shards):
    entries = {
        (tool, key): (f"{tool} {key} </tool_response>\r\n\0", [(key, 1.5), ("other", -0.1)])
        for tool in ("UserCF", "ItemCF")
        for key in world.UGLY
    }
    store = EvidenceStore.inspect(fill(tmp_path / "store", entries, shards))
    for (tool, key), (text, near) in entries.items():
        assert store.get(tool, key) == text
        assert store.neighbours(tool, key) == near
    assert sorted(store.keys("UserCF")) == sorted(world.UGLY)
    assert store.verify()["entries"] == 2 * len(world.UGLY)


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 1000])
def test_any_number_of_entries(tmp_path, count):
    entries = some(count)
    store = EvidenceStore.inspect(fill(tmp_path / "store", entries, shards=2))
    assert {key: (store.get(*key), store.neighbours(*key)) for key in entries} == entries
    assert store.get("ItemCF", "absent") is None
    assert sorted(store.keys("ItemCF")) == sorted(key for _, key in entries)


def test_empty_texts_and_no_neighbours(tmp_path):
    store = EvidenceStore.inspect(fill(tmp_path / "store", {("ItemCF", "a"): ("", [])}))
    assert store.get("ItemCF", "a") == "" and store.neighbours("ItemCF", "a") == []


def test_bytes_do_not_depend_on_the_order_of_putting(tmp_path):
    entries = some(500)
    order = list(entries)
    one = fill(tmp_path / "a" / "store", entries, 2, order)
    random.Random(1).shuffle(order)
    two = fill(tmp_path / "b" / "store", entries, 2, order)
    for file in sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file()):
        assert (one / file).read_bytes() == (two / file).read_bytes()


def test_a_later_put_replaces_an_earlier_one(tmp_path):
    with EvidenceWriter(tmp_path / "store", "classic", "d") as writer:
        writer.put("ItemCF", "a", "first", outcome="fallback")
        writer.put("ItemCF", "a", "second")
        assert len(writer) == 1
        writer.seal()
    store = EvidenceStore.inspect(tmp_path / "store")
    assert store.get("ItemCF", "a") == "second"
    assert len(store) == 1 and store.manifest["outcomes"] == {"template": 1}


# ---------------------------------------------------------------------------------------------------------- writing


def test_an_unsealed_store_is_refused_with_what_to_do(tmp_path):
    with EvidenceWriter(tmp_path / "store", "classic", "d") as writer:
        writer.put("ItemCF", "a", "text")
        with pytest.raises(StarError, match=r"not sealed yet.*run the command that builds it again"):
            EvidenceStore.inspect(tmp_path / "store")  # while it is being written
    with pytest.raises(StarError, match="not sealed yet"):
        EvidenceStore.inspect(tmp_path / "store")
    with pytest.raises(StarError, match="there is no evidence store"):
        EvidenceStore.inspect(tmp_path / "other")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StarError, match="not a sealed evidence store"):
        EvidenceStore.inspect(tmp_path / "folder")


def test_a_second_writer_is_refused(tmp_path):
    with EvidenceWriter(tmp_path / "store", "classic", "d"), pytest.raises(StarError, match="another process"):
        EvidenceWriter(tmp_path / "store", "classic", "d")
    EvidenceWriter(tmp_path / "store", "classic", "d").close()


def test_a_sealed_store_is_not_written_again(sealed):
    with pytest.raises(StarError, match="a sealed store never changes"):
        EvidenceWriter(sealed, "classic", "data-1")


@pytest.mark.parametrize("other", [{"scenario": "x"}, {"fingerprint": "x"}, {"about": {"budget": 1}}, {"shards": 2}])
def test_an_unfinished_build_of_something_else_is_refused(tmp_path, other):
    own = {"scenario": "classic", "fingerprint": "d", "about": {"budget": 2}, "shards": 1}
    EvidenceWriter(tmp_path / "store", **own).close()
    with pytest.raises(StarError, match=f"has {next(iter(other))} "):
        EvidenceWriter(tmp_path / "store", **{**own, **other})
    EvidenceWriter(tmp_path / "store", **own).close()


def test_a_build_is_resumed_after_any_flush(tmp_path):
    entries = some(60)
    whole = fill(tmp_path / "whole", entries, shards=2)
    for flushed in range(0, 60, 7):
        path = tmp_path / f"store{flushed}"
        writer = EvidenceWriter(path, "classic", "data-1", shards=2)
        for place, (key, value) in enumerate(entries.items()):
            if place == flushed:
                writer.flush()
                kept = tmp_path / f"kept{flushed}"
                shutil.copytree(tmp_path / f"{path.name}.building", kept)
            writer.put(*key, *value)
        writer.close()
        shutil.rmtree(tmp_path / f"{path.name}.building")  # as a kill after the flush leaves it
        kept.rename(tmp_path / f"{path.name}.building")
        with EvidenceWriter(path, "classic", "data-1", shards=2) as writer:
            assert len(writer) == flushed
            for key, value in entries.items():
                if key not in writer:
                    writer.put(*key, *value)
            writer.seal()
        assert sha256(path) == sha256(whole)


def test_an_id_that_is_not_unicode_is_refused(tmp_path):
    with EvidenceWriter(tmp_path / "store", "classic", "d") as writer:
        with pytest.raises(StarError, match="not valid Unicode"):
            writer.put("ItemCF", "\ud800", "text")
        with pytest.raises(StarError, match="not valid Unicode"):
            writer.put("ItemCF", "a", "\ud800")
        with pytest.raises(StarError, match="cannot be a tool's name"):
            writer.put("Item\0CF", "a", "text")
        assert len(writer) == 0


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StarError, match="cannot write"):
        EvidenceWriter(tmp_path / "file" / "store", "classic", "d")


# ----------------------------------------------------------------------------------------------- shards, processes


def test_shards_of_which_some_are_elsewhere(tmp_path):
    entries = some(200)
    path = fill(tmp_path / "store", entries, shards=4)
    shutil.rmtree(path / "shard-00002")
    store = EvidenceStore.inspect(path)
    answered = 0
    for tool, key in entries:
        if store.shard_of(tool, key) == "shard-00002":
            with pytest.raises(StarError, match=r"shard-00002 .* is not on this machine"):
                store.get(tool, key)
            with pytest.raises(StarError, match="is not on this machine"):
                store.answer(tool, [key])
        else:
            answered += store.get(tool, key) == entries[tool, key][0]
    assert 100 < answered < 200
    assert store.verify()["absent"] == ["shard-00002"]
    for number in (0, 1, 3):
        shutil.rmtree(path / f"shard-{number:05d}")
    with pytest.raises(StarError, match="none of the 4 shards"):
        EvidenceStore.inspect(path)


def test_is_pickled_by_its_path(sealed):
    store = pickle.loads(pickle.dumps(EvidenceStore.open(sealed, "classic", "data-1")))
    assert store.get("ItemCF", "k1").startswith("text 1 ")
    assert len(pickle.dumps(store)) < 1000
    asked = pickle.dumps(EvidenceStore.open(sealed, "classic", "data-1"))
    shutil.rmtree(sealed)
    fill(sealed, some(3), about={"other": True})
    assert len(pickle.loads(asked)) == 3  # same scenario and data: accepted, as opening it would be


READER = """
import hashlib, pickle, sys
store = pickle.load(sys.stdin.buffer)
texts = [store.get("ItemCF", f"k{number}") for number in range(1, 300, 2)]
print(hashlib.sha256("".join(texts).encode()).hexdigest())
"""


def test_processes_are_handed_a_store(sealed):
    """As Ray hands objects to its workers: pickled, to processes that share nothing but the path."""
    store = EvidenceStore.inspect(sealed)
    readers = [
        subprocess.Popen([sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = {reader.communicate(pickle.dumps(store))[0].decode().strip() for reader in readers}
    texts = "".join(f"text {number} é " * 9 for number in range(1, 300, 2))
    assert answers == {hashlib.sha256(texts.encode()).hexdigest()}


def test_a_forked_process_reads_on(sealed):
    store = EvidenceStore.inspect(sealed)
    child = os.fork()
    if not child:
        os._exit(0 if store.get("ItemCF", "k1") == "text 1 é " * 9 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_share_one_object(sealed):
    store = EvidenceStore.inspect(sealed)
    wrong = []

    def work(seed):
        source = random.Random(seed)
        for _ in range(2000):
            number = source.randrange(300)
            tool = "ItemCF" if number % 2 else "UserCF"
            if store.get(tool, f"k{number}") != f"text {number} é " * 9:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


WRITER = """
import sys
from star_rl.evidence import EvidenceWriter
with EvidenceWriter(sys.argv[1], "classic", "d") as writer:
    for number in range(3000):
        writer.put("ItemCF", f"k{number}", f"text {number}")
        if number == 100:
            print("half", flush=True)
            sys.stdin.readline()
    writer.seal()
"""


def test_opened_while_another_process_writes(tmp_path):
    """A reader sees no store, then the whole store; nothing between."""
    path = tmp_path / "store"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "half\n"
    with pytest.raises(StarError, match="not sealed yet"):
        EvidenceStore.inspect(path)
    with pytest.raises(StarError, match="another process is building"):
        EvidenceWriter(path, "classic", "d")
    process.stdin.write("\n")
    process.stdin.flush()
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        try:
            store = EvidenceStore.inspect(path)
            break
        except StarError as error:
            assert "not sealed yet" in str(error)
    assert len(store) == 3000 and store.get("ItemCF", "k2999") == "text 2999"
    assert process.wait(60) == 0
    assert not (tmp_path / "store.building").exists()


def test_opened_in_the_moment_of_sealing(sealed, monkeypatch):
    """The manifest appears between two looks of the reader."""
    away = sealed.with_name("elsewhere")
    sealed.rename(away)

    def looked(path):
        away.rename(path)
        return sealed.with_name("absent")

    monkeypatch.setattr(sealing, "building_folder", looked)
    assert len(EvidenceStore.inspect(sealed)) == 300


def test_an_open_store_outlives_its_deletion(sealed):
    store = EvidenceStore.inspect(sealed)
    shutil.rmtree(sealed)
    assert store.get("ItemCF", "k1").startswith("text 1 ")


def test_manifest_tells_what_it_holds(sealed):
    manifest = json.loads((sealed / "manifest.json").read_text())
    assert manifest["scenario"] == "classic" and manifest["fingerprint"] == "data-1"
    (row,) = manifest["shards"]
    file = sealed / "shard-00000" / FILE
    assert (row["entries"], row["bytes"], row["sha256"]) == (300, os.path.getsize(file), sha256(file))


def test_many_stores_of_one_path_are_open_at_once(sealed):
    stores = [EvidenceStore.inspect(sealed) for _ in range(3)]
    stores[0].close()
    assert {store.get("ItemCF", "k1") for store in stores[1:]} == {"text 1 é " * 9}


@pytest.mark.parametrize("length", [500, 503, 504, 505, 511, 512, 70_000])
def test_ids_as_long_as_lmdb_s_keys_and_longer(tmp_path, length):
    entries = {
        (tool, letter * length): (f"{tool} {letter}", [("n", 1.0)]) for tool in ("ItemCF", "UserCF") for letter in "ab"
    }
    store = EvidenceStore.inspect(fill(tmp_path / "store", entries))
    assert {key: (store.get(*key), store.neighbours(*key)) for key in entries} == entries
    assert sorted(store.keys("ItemCF")) == ["a" * length, "b" * length]
    assert store.get("ItemCF", "c" * length) is None
