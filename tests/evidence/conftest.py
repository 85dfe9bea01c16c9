import importlib.util
from pathlib import Path

import pytest

from star_rl.evidence import EvidenceWriter

_FILE = Path(__file__).with_name("evidence_world.py")


@pytest.fixture(scope="session")
def world():
    """The module ``evidence_world``."""
    spec = importlib.util.spec_from_file_location("evidence_world", _FILE)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["evidence_world"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sealed(tmp_path):
    """Path of a sealed store of 300 entries."""
    with EvidenceWriter(tmp_path / "store", "classic", "data-1", {"verbaliser": "test"}) as writer:
        for number in range(300):
            near = [(f"n{number}", 0.5, 3), ("n2", 0.25, 1)]
            writer.put("ItemCF" if number % 2 else "UserCF", f"k{number}", f"text {number} é " * 9, near, {"n": number})
        return writer.seal()
