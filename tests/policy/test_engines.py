"""Engines: which device they take, and options that are none."""

import pytest

from star_rl import integrations
from star_rl.errors import StarError
from star_rl.policy.engines import EngineOptions, has_accelerator


@pytest.mark.engine
@pytest.mark.parametrize(("installed", "taken"), [("0.28.0", False), ("absent", True)])
def test_a_gpu_is_taken_where_the_engine_is_a_gpu_s(monkeypatch, installed, taken):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(integrations, "versions", lambda names: dict.fromkeys(names, installed))
    assert has_accelerator() is taken


@pytest.mark.parametrize("name", ["max_model_len", "max_num_seqs", "threads", "replicas"])
@pytest.mark.parametrize("value", [0, -1, "many", 1.5])
def test_a_size_is_a_whole_number(name, value):
    with pytest.raises(StarError, match=f"{name}={value!r} is not valid"):
        EngineOptions(**{name: value})
