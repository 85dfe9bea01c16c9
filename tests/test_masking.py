"""Secrets of the environment: which values are some, and that no log and no terminal keeps them."""

import io
import subprocess
import sys

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
def test_what_is_a_secret(name, value, sent, expected):
    assert masking.is_secret(name, value, sent) is expected


def test_values_that_were_sent_along_count_and_the_longest_goes_first():
    environment = {"A_KEY": "abc123", "B_KEY": "abc123-and-more", "C": "zz-99-zz", masking.SENT: "C,D"}
    assert masking.secret_values(environment) == ("abc123-and-more", "zz-99-zz", "abc123")
    assert masking.mask("abc123-and-more abc123 zz-99-zz", masking.secret_values(environment)) == "*** *** ***"


def test_a_stream_shows_no_secret(with_key):
    out = io.StringIO()
    assert masking.MaskedStream(out).write(f"live {KEY}\n") == len(f"live {KEY}\n")
    assert out.getvalue() == "live ***\n"


def test_what_other_processes_write_is_masked_and_nothing_else_changes(with_key, tmp_path):
    log = tmp_path / "train.log"
    log.write_text(f"of an earlier run: {KEY}\n")
    with masking.masking(log), log.open("ab") as sink:
        code = f"for n in range(2000): print(n, 'key={KEY} and é')"
        subprocess.run([sys.executable, "-c", code], stdout=sink, check=True)
    lines = log.read_text().splitlines()
    stars = "*" * len(KEY)
    assert lines[0] == f"of an earlier run: {stars}"
    assert lines[1:] == [f"{n} key={stars} and é" for n in range(2000)]


def test_a_value_is_found_across_the_places_where_a_look_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(masking, "_BLOCK", 7)
    log = tmp_path / "log"
    text = b"ab" * 11 + b"secret-1" + b"x" * 9 + b"secret-1secret-1"
    place = 0
    for end in range(1, len(text) + 1, 3):
        with log.open("ab") as handle:
            handle.write(text[log.stat().st_size if log.exists() else 0 : end])
        place = masking._overwrite(log, [b"secret-1"], place)
    with log.open("ab") as handle:
        handle.write(text[log.stat().st_size :])
    masking._overwrite(log, [b"secret-1"], place)
    assert log.read_bytes() == text.replace(b"secret-1", b"*" * 8)


def test_it_goes_on_while_the_block_lasts(with_key, tmp_path, monkeypatch):
    monkeypatch.setattr(masking, "_EVERY", 0.01)
    log = tmp_path / "log"
    with masking.masking(log):
        log.write_text(f"key {KEY}\n")
        while KEY in log.read_text():
            pass


def test_a_log_that_is_absent_or_begun_anew_is_no_trouble(with_key, tmp_path):
    with masking.masking(tmp_path / "none" / "log"):
        pass
    log = tmp_path / "log"
    log.write_text(KEY)
    assert masking._overwrite(log, [KEY.encode()], 10_000) == len(KEY)
    assert KEY not in log.read_text()
