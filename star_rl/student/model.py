"""First weights of a tiny student: a Qwen3 of a few hundred thousand parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from star_rl.errors import StarError
from star_rl.options import Positive, Size, Whole, options


@options
class StudentShape:
    """Size and start of a tiny Qwen3.

    Attributes:
        hidden_size: width of the residual stream; `heads * head_dim` need not equal it.
        kv_heads: key and value heads; divides `heads`.
        head_dim: a multiple of 16 for vLLM's CPU attention.
        max_length: longest sequence, tokens.
        rope_theta: base of the rotary embedding; 10,000 fits sequences of a few thousand tokens.
        init_std, embed_std: standard deviation of every matrix and of the (tied) embedding at the start.
    """

    hidden_size: Size = 128
    intermediate_size: Size = 384
    layers: Size = 2
    heads: Size = 4
    kv_heads: Size = 4
    head_dim: Annotated[int, Field(gt=0, multiple_of=16, strict=True)] = 32
    max_length: Size = 4096
    rope_theta: Positive = 10000.0
    init_std: Positive = 0.02
    embed_std: Positive = 0.02
    seed: Whole = 0

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise StarError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}", "use a divisor")


def make_student(tokenizer_dir: Path, out: Path, shape: StudentShape | None = None) -> int:
    """Write a randomly initialised Qwen3 with the tokenizer of `tokenizer_dir` to `out` (which may be the same).

    The folder loads in transformers, ms-swift, vLLM and verl. Returns the number of parameters, the tied embedding
    counted once.

    Raises:
        StarError: `tokenizer_dir` holds no tokenizer with Qwen3's control tokens.
    """
    import torch
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    shape = shape or StudentShape()
    if not (tokenizer_dir / "tokenizer.json").is_file():
        raise StarError(f"no tokenizer.json in {tokenizer_dir}", "train the tokenizer first (train_tokenizer)")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(tokenizer_dir))
    vocab = tokenizer.get_vocab()
    missing = [t for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>") if t not in vocab]
    if missing:
        raise StarError(f"the tokenizer in {tokenizer_dir} lacks {missing[0]}", "use one made by train_tokenizer")
    end, pad = vocab["<|im_end|>"], vocab["<|endoftext|>"]
    config = Qwen3Config(
        # Not a row more: verl's rollout masks logits past the tokenizer (vllm_rollout/utils.py:126), the trainer's do
        # not, so spare rows would take probability in one and none in the other.
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_length,
        rope_theta=shape.rope_theta,
        initializer_range=shape.init_std,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(shape.seed)
        model = Qwen3ForCausalLM(config)
        torch.nn.init.normal_(model.model.embed_tokens.weight, std=shape.embed_std)
    model.generation_config = GenerationConfig(eos_token_id=[end, pad], pad_token_id=pad)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(out))
    if out.resolve() != tokenizer_dir.resolve():
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (out / name).write_bytes((tokenizer_dir / name).read_bytes())
    return sum(p.numel() for p in model.parameters())
