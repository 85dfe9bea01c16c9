"""The tiny student's first weights."""

import pytest

from star_rl.errors import StarError
from star_rl.student.model import StudentShape, make_student
from star_rl.student.tokenizer import train_tokenizer

TINY = StudentShape(hidden_size=32, intermediate_size=64, heads=2, kv_heads=1, head_dim=16, max_length=128)


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["<|im_start|>user\n1 and 2<|im_end|>\n"] * 3, ["1", "2"], out)
    return out


def test_loads_with_tokenizer_and_ends_where_a_turn_ends(tokenizer_dir, tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    parameters = make_student(tokenizer_dir, tmp_path, TINY)
    config = AutoConfig.from_pretrained(str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path))
    assert (config.model_type, config.architectures, config.tie_word_embeddings) == (
        "qwen3",
        ["Qwen3ForCausalLM"],
        True,
    )
    assert config.vocab_size == len(tokenizer), "spare rows take probability that a masked rollout does not give them"
    assert model.generation_config.eos_token_id == [2, 0]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 2
    assert parameters == sum(p.numel() for p in model.parameters())
    ids = torch.tensor([tokenizer.encode("1 and 2", add_special_tokens=False)])
    assert model(ids).logits.shape == (1, ids.shape[1], config.vocab_size)


def test_seed_and_spread_of_the_weights(tokenizer_dir, tmp_path):
    from dataclasses import replace

    from safetensors.numpy import load_file

    shapes = {
        "a": TINY,
        "again": TINY,
        "seed": replace(TINY, seed=1),
        "wide": replace(TINY, init_std=0.2, embed_std=0.5),
    }
    weights = {}
    for name, shape in shapes.items():
        make_student(tokenizer_dir, tmp_path / name, shape)
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    key, embed = "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"
    assert all((weights["a"][k] == weights["again"][k]).all() for k in weights["a"])
    assert (weights["a"][key] != weights["seed"][key]).any()
    assert 0.015 < weights["a"][key].std() < 0.025
    assert 0.15 < weights["wide"][key].std() < 0.25
    assert 0.4 < weights["wide"][embed].std() < 0.6


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"layers": 0}, "layers=0"),
        ({"hidden_size": -1}, "hidden_size=-1"),
        ({"init_std": float("nan")}, "init_std=nan"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads=3"),
        ({"head_dim": 20}, "head_dim=20"),
    ],
)
def test_bad_shapes(values, named):
    with pytest.raises(StarError, match=named):
        StudentShape(**values)


def test_no_tokenizer_or_another_one(tmp_path):
    from tokenizers import Tokenizer, models

    with pytest.raises(StarError, match=r"no tokenizer\.json"):
        make_student(tmp_path, tmp_path / "out")
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(StarError, match="lacks"):
        make_student(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
