"""A build that is killed at any moment and run again ends in the store of an undisturbed one; nothing is paid twice."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from star_rl.chat.cache import Cache
from star_rl.evidence import EvidenceStore
from star_rl.files import sha256
from tests.evidence import evidence_world as world

ROOT = Path(__file__).parents[2]


def digest(folder):
    EvidenceStore.inspect(folder).verify()
    return sha256(folder)


def killed_build(mode, folder, keys, kills, latest, seed):
    """Build; die ``kills`` times, each within the first ``latest`` texts of a start; then run to the end."""
    folder.mkdir()
    source = random.Random(seed)
    command = [sys.executable, world.__file__, mode, str(folder), str(keys)]
    for _ in range(kills):
        died = subprocess.run([*command, str(source.randint(1, latest))], capture_output=True, text=True)
        assert died.returncode == -signal.SIGKILL, died.stderr
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def paid_in(folder):
    """Return how many replies the model sent, and how many of them the cache holds."""
    cache = Cache(str(folder / "replies.db"))
    held = cache.totals()[0]
    cache.close()
    return sum(line.startswith("paid") for line in (folder / "asked.log").read_text().splitlines()), held


def check_kills(tmp_path, mode, keys, kills, latest, seed=0):
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    world.build(mode, undisturbed, keys)
    killed_build(mode, tmp_path / "killed", keys, kills, latest, seed)
    assert digest(tmp_path / "killed" / "store") == digest(undisturbed / "store")
    if mode == "llm":
        whole, held = paid_in(undisturbed)
        assert whole == held
        paid, held = paid_in(tmp_path / "killed")
        assert held == whole
        assert paid - whole <= kills * 8  # paid twice: only replies on their way at a kill, one a slot
        outcomes = EvidenceStore.inspect(tmp_path / "killed" / "store").manifest["outcomes"]
        assert all(outcomes[name] for name in ("llm", "repaired", "fallback", "template"))


@pytest.mark.parametrize(("mode", "keys", "latest"), [("template", 2000, 900), ("llm", 250, 100)])
def test_three_kills_change_nothing(tmp_path, mode, keys, latest):
    check_kills(tmp_path, mode, keys, 3, latest)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "keys", "latest"), [("template", 30_000, 2000), ("llm", 3000, 200)])
@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_kills_change_nothing(tmp_path, mode, keys, latest, seed):
    check_kills(tmp_path, mode, keys, 20, latest, seed)


@pytest.mark.slow
def test_kills_while_sealing_change_nothing(tmp_path):
    """All entries are there: every kill falls into the sealing, some after its last step."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    world.build("template", undisturbed, 6000)
    code = (
        "import sys; from star_rl.evidence import EvidenceWriter, EvidenceStore\n"
        "from tests.evidence import evidence_world as w; t = w.Template(w.Catalogue(w.items()))\n"
        "from star_rl.evidence import build\n"
        "real = build.EvidenceWriter.seal\n"
        "def seal(self, **facts):\n"
        "    self.flush(); print('sealing', flush=True); return real(self, **facts)\n"
        "build.EvidenceWriter.seal = seal\n"
        "w.build('template', sys.argv[1], 6000)\n"
    )
    source = random.Random(7)
    folder = tmp_path / "killed"
    folder.mkdir()
    command = [sys.executable, "-c", code, str(folder)]
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        lines = [process.stdout.readline(), process.stdout.readline()]
        if "sealing\n" in lines:
            time.sleep(source.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert subprocess.run(command, capture_output=True, cwd=ROOT).returncode == 0
    assert digest(folder / "store") == digest(undisturbed / "store")
