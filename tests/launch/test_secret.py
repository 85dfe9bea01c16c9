"""Variables that travel by name: their values are nowhere to be read."""

import json

import pytest

from star_rl import masking
from star_rl.errors import StarError
from star_rl.launch import secret

VALUE = "wb-0123456789abcdef"


@pytest.fixture
def held(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", VALUE)
    monkeypatch.setenv("HF_TOKEN", "hf_né \"quoted\" 'too'")
    return secret.Secrets.from_environment(["WANDB_API_KEY", "HF_TOKEN"])


def test_a_value_shows_neither_in_repr_nor_in_masked_text(held):
    assert repr(held) == "Secrets(HF_TOKEN, WANDB_API_KEY)" and VALUE not in str(held) + f"{held}"
    assert held.mask(f"key={VALUE}, again {VALUE}.") == "key=***, again ***."


def test_a_common_word_that_was_sent_along_is_no_secret(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "amazon")
    held = secret.Secrets.from_environment(["WANDB_PROJECT"])
    assert held.mask("recipe amazon") == "recipe amazon"


def test_what_was_sent_along_is_masked_in_the_job_s_logs_too(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCOUNT", "x7-secret-9")
    pad, content = secret.Secrets.from_environment(["ACCOUNT"]).split()
    (tmp_path / secret.FILE).write_bytes(content)
    monkeypatch.setenv(secret.PAD, pad)
    monkeypatch.setenv(masking.SENT, "")
    secret.load(tmp_path)
    assert masking.mask("with x7-secret-9") == "with ***"


def test_each_half_is_noise_and_both_together_are_the_values(held, tmp_path, monkeypatch):
    pad, content = held.split()
    assert VALUE not in pad and VALUE.encode() not in content and VALUE.encode().hex() not in content.decode()
    assert held.split()[0] != pad
    (tmp_path / secret.FILE).write_bytes(content)
    monkeypatch.setenv(secret.PAD, pad)
    monkeypatch.delenv("WANDB_API_KEY")
    loaded = secret.load(tmp_path)
    import os

    assert os.environ["WANDB_API_KEY"] == VALUE and os.environ["HF_TOKEN"].startswith("hf_né")
    assert loaded.names == held.names and json.loads(content)["names"] == ["HF_TOKEN", "WANDB_API_KEY"]


def test_without_a_pad_nothing_is_loaded(tmp_path, monkeypatch):
    monkeypatch.delenv(secret.PAD, raising=False)
    assert secret.load(tmp_path).names == ()


def test_a_value_on_the_command_line_is_refused_without_being_repeated():
    with pytest.raises(StarError) as caught:
        secret.Secrets.from_environment([f"KEY={VALUE}"])
    assert VALUE not in str(caught.value) and "export the variable" in str(caught.value)
    with pytest.raises(StarError, match="STAR_RL_NONE: the variable is not set here"):
        secret.Secrets.from_environment(["STAR_RL_NONE"])
