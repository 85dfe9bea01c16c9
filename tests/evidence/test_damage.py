"""A store that was damaged, or is of something else, is refused: never a wrong answer."""

import random

import pytest

from star_rl.errors import StarError
from star_rl.evidence import EvidenceStore
from star_rl.evidence.layout import FILES


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_by_verify(sealed, name):
    file = sealed / "shard-00000" / name
    source = random.Random(name)
    whole = file.read_bytes()
    for _ in range(12):
        place = source.randrange(len(whole))
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << source.randrange(8)
        file.write_bytes(spoiled)
        with pytest.raises(StarError, match=r"damaged.*SHA-256"):
            EvidenceStore.inspect(sealed).verify()
    file.write_bytes(whole)
    EvidenceStore.inspect(sealed).verify()


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_never_a_wrong_answer(sealed, name):
    """Without verify: each of many flips gives the right answer or an error, for present and absent ids alike."""
    file = sealed / "shard-00000" / name
    sound = EvidenceStore.inspect(sealed)
    asked = [("ItemCF" if n % 2 else "UserCF", f"k{n}") for n in range(320)]
    right = {key: sound.entry(*key) for key in asked}
    source = random.Random(name)
    whole = file.read_bytes()
    caught = 0
    for _ in range(60):
        spoiled = bytearray(whole)
        spoiled[source.randrange(len(whole))] ^= 1 << source.randrange(8)
        file.write_bytes(spoiled)
        store = EvidenceStore.inspect(sealed)
        for key in asked:
            try:
                assert store.get(*key) == (right[key]["text"] if right[key] else None)
                assert store.entry(*key) == right[key]
                assert store.neighbour_ids(*key) == tuple(row[0] for row in (right[key] or {}).get("neighbours", ()))
            except StarError as error:
                caught += 1
                assert "damaged" in str(error)
        store.close()
    assert caught


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["truncated", "longer", "absent", "empty"])
def test_a_file_of_another_length_is_refused_at_opening(sealed, name, change):
    file = sealed / "shard-00000" / name
    whole = file.read_bytes()
    if change == "absent":
        file.unlink()
    else:
        file.write_bytes({"truncated": whole[:-1], "longer": whole + b"\0", "empty": b""}[change])
    with pytest.raises(StarError, match="damaged"):
        EvidenceStore.inspect(sealed)


def test_a_damaged_manifest_is_refused(sealed):
    file = sealed / "manifest.json"
    whole = file.read_text()
    for spoiled in (whole[:-40], "", "[]", "null", whole.replace('"data-1"', '"data-2"'), whole.replace("300", "301")):
        file.write_text(spoiled)
        with pytest.raises(StarError, match="damaged"):
            EvidenceStore.inspect(sealed)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StarError, match="damaged"):
        EvidenceStore.inspect(sealed)


def test_another_format_is_refused(sealed, monkeypatch):
    monkeypatch.setattr("star_rl.evidence.manifest.READ", (3, 4))
    with pytest.raises(StarError, match="has format 2, this version reads 3 and 4"):
        EvidenceStore.inspect(sealed)


def test_another_scenario_or_data_is_refused(sealed):
    with pytest.raises(StarError, match="scenario 'classic', not 'user_cold_start'"):
        EvidenceStore.open(sealed, "user_cold_start", "data-1")
    with pytest.raises(StarError, match="data data-1, the tables here are data-2"):
        EvidenceStore.open(sealed, "classic", "data-2")
