"""A store that was damaged, or is of something else, is refused: never a wrong answer."""

import random

import pytest

from star_rl.errors import StarError
from star_rl.evidence import EvidenceStore
from star_rl.evidence.shard import FILE


def test_a_flipped_bit_is_found_by_verify(sealed):
    file = sealed / "shard-00000" / FILE
    source = random.Random(1)
    whole = file.read_bytes()
    store = EvidenceStore.inspect(sealed)
    for _ in range(36):
        place = source.randrange(len(whole))
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << source.randrange(8)
        file.write_bytes(spoiled)
        with pytest.raises(StarError, match=r"damaged.*SHA-256"):
            store.verify()
    file.write_bytes(whole)
    EvidenceStore.inspect(sealed).verify()


def test_a_flipped_bit_is_never_a_wrong_answer(sealed):
    """LMDB trusts its pages, so a flip is refused before LMDB sees it, beside an open store or alone."""
    file = sealed / "shard-00000" / FILE
    kept = EvidenceStore.inspect(sealed)
    source = random.Random(1)
    whole = file.read_bytes()
    for flip in range(180):
        if flip == 90:
            kept.close()
        spoiled = bytearray(whole)
        spoiled[source.randrange(len(whole))] ^= 1 << source.randrange(8)
        file.write_bytes(spoiled)
        with pytest.raises(StarError, match="damaged"):
            EvidenceStore.inspect(sealed)
    file.write_bytes(whole)
    assert EvidenceStore.inspect(sealed).get("ItemCF", "k1") == "text 1 é " * 9


@pytest.mark.parametrize("change", ["truncated", "longer", "absent", "empty"])
def test_a_file_of_another_length_is_refused_at_opening(sealed, change):
    file = sealed / "shard-00000" / FILE
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
    monkeypatch.setattr("star_rl.evidence.manifest.FORMAT", 5)
    with pytest.raises(StarError, match="has format 4, this version reads 5"):
        EvidenceStore.inspect(sealed)


def test_another_scenario_or_data_is_refused(sealed):
    with pytest.raises(StarError, match="scenario 'classic', not 'user_cold_start'"):
        EvidenceStore.open(sealed, "user_cold_start", "data-1")
    with pytest.raises(StarError, match="data data-1, the tables here are data-2"):
        EvidenceStore.open(sealed, "classic", "data-2")
