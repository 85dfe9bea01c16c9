import pytest

from star_rl.evidence import EvidenceWriter


@pytest.fixture
def sealed(tmp_path):
    """Path of a sealed store of 300 entries."""
    with EvidenceWriter(tmp_path / "store", "classic", "data-1", {"verbaliser": "test"}) as writer:
        for number in range(300):
            near = [(f"n{number}", 0.5, 3), ("n2", 0.25, 1)]
            writer.put("ItemCF" if number % 2 else "UserCF", f"k{number}", f"text {number} é " * 9, near, {"n": number})
        return writer.seal()
