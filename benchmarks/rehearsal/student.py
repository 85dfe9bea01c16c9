"""A random Qwen3 of a few million parameters with the real tokenizer, chat template and vocabulary."""

from __future__ import annotations

import shutil
from pathlib import Path

#: Rows of the embedding of every published Qwen3.
VOCABULARY = 151_936
_TURN_END = 151_645  # <|im_end|>


def make_student(tokenizer: Path, out: Path) -> Path:
    """Write the student to ``out``; ``tokenizer``: folder with Qwen3's tokenizer.json and tokenizer_config.json."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, out / name)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=64,  # vLLM's attention on a CPU takes 64 or 128
        max_position_embeddings=40_960,
        rope_theta=1_000_000.0,
        tie_word_embeddings=True,
        bos_token_id=151_643,
        eos_token_id=_TURN_END,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).float()
    # a turn of random words would never end: every state points a little along the first axis, <|im_end|> far
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0.06
        model.model.embed_tokens.weight[_TURN_END, 0] = 2.8
    model.generation_config = GenerationConfig(bos_token_id=151_643, eos_token_id=[_TURN_END, 151_643])
    model.save_pretrained(str(out))
    return out
