"""Secrets of the environment: which values are secret, and that our streams mask them."""

import io
import stat
import subprocess

import pytest

from star_rl import masking

KEY = "wb-0123456789abcdef"


@pytest.fixture
def with_key(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)


@pytest.mark.parametrize(
    "name, value, sent, expected",
    [
        ("WANDB_API_KEY", KEY, False, True),
        ("HF_TOKEN", "hf_né \"quoted\" 'too'", False, True),
        ("OPENAI_APIKEY", "sk-1234567", False, True),
        ("db_password", "correcthorsebattery", False, True),
        ("STORE_SECRETS", "a1b2c3", False, True),
        ("MY_SETTING", "x7-secret-9", True, True),
        ("MY_SETTING", "x7-secret-9", False, False),
        ("WANDB_PROJECT", "amazon", True, False),
        ("WANDB_PROJECT", "star-rl_amazon", True, False),
        ("NCCL_SOCKET_IFNAME", "eth0", True, False),
        ("MASTER_ADDR", "10.0.0.17:6379", True, False),
        ("HF_HOME", "/shared/hf2", True, False),
        ("TOKENIZERS_PARALLELISM", "false-1", False, False),
        ("USE_TOKEN", "false", False, False),
        ("MAX_TOKEN", "16384", False, False),
        ("SSH_KEY", "~/.ssh/id_ed25519", False, False),
        ("API_KEY", "", False, False),
    ],
)
def test_which_values_are_secret(name, value, sent, expected):
    assert masking.is_secret(name, value, sent) is expected


def test_sent_values_are_secret_and_the_longest_comes_first():
    environment = {"A_KEY": "abc123", "B_KEY": "abc123-and-more", "C": "zz-99-zz", masking.SENT: "C,D"}
    assert masking.secret_values(environment) == ("abc123-and-more", "zz-99-zz", "abc123")
    assert masking.mask("abc123-and-more abc123 zz-99-zz", masking.secret_values(environment)) == "*** *** ***"


def test_a_stream_shows_no_secret(with_key):
    out = io.StringIO()
    assert masking.MaskedStream(out).write(f"live {KEY}\n") == len(f"live {KEY}\n")
    assert out.getvalue() == "live ***\n"


@pytest.mark.parametrize("before", [None, "of an earlier run\n"])
def test_only_its_owner_can_read_a_log_of_other_processes(tmp_path, before):
    log = tmp_path / "logs" / "train.log"
    if before:
        log.parent.mkdir()
        log.write_text(before)
        log.chmod(0o644)
    with masking.open_log(log) as sink:
        subprocess.run(["echo", KEY], stdout=sink, check=True)
    assert log.read_text() == f"{before or ''}{KEY}\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
