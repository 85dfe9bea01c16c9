"""Shapes of dense Qwen3 models, and the counts that follow from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_rl.errors import StarError


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense Qwen3 decoder; the names are those of its ``config.json``, shortened.

    Attributes:
        hidden, layers, intermediate, vocab: sizes.
        heads, kv_heads, head_dim: of the attention; queries are ``heads * head_dim`` wide, not always ``hidden``.
        tied: whether the output projection is the embedding.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool

    @property
    def query(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of all keys, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the output projection where it is not tied."""
        return self.vocab * self.hidden

    @property
    def layer(self) -> int:
        """Parameters of one layer: four attention projections, two head norms, three of the MLP, two norms."""
        attention = 2 * self.hidden * self.query + 2 * self.hidden * self.kv + 2 * self.head_dim
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, a tied embedding counted once."""
        return self.layers * self.layer + self.embedding * (1 if self.tied else 2) + self.hidden

    def adapter(self, rank: int) -> int:
        """Parameters of low-rank adapters on the seven linear maps of every layer."""
        widths = 2 * (self.hidden + self.query) + 2 * (self.hidden + self.kv) + 3 * (self.hidden + self.intermediate)
        return self.layers * rank * widths

    def kv_bytes(self, tensor_parallel: int = 1, width: int = 2) -> int:
        """Bytes of KV cache per token and GPU: keys and values of every layer; a GPU has one head at least."""
        heads = max(1, -(-self.kv_heads // tensor_parallel))
        return 2 * self.layers * heads * self.head_dim * width


def lora_rank(config: Mapping[str, Any]) -> int:
    """Return the rank of the adapters in a composed ms-swift configuration; 0 if all parameters are trained."""
    full = str(config.get("tuner_type") or config.get("train_type") or "full") == "full"
    return 0 if full else int(config.get("lora_rank", 8))


def _qwen3(size: str, hidden: int, layers: int, heads: int, kv: int, intermediate: int, tied: bool) -> Shape:
    return Shape(f"Qwen3-{size}", hidden, layers, heads, kv, 128, intermediate, 151936, tied)


#: The dense family as published (each model's config.json).
QWEN3: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        _qwen3("0.6B", 1024, 28, 16, 8, 3072, True),
        _qwen3("1.7B", 2048, 28, 16, 8, 6144, True),
        _qwen3("4B", 2560, 36, 32, 8, 9728, True),
        _qwen3("8B", 4096, 36, 32, 8, 12288, False),
        _qwen3("14B", 5120, 40, 40, 8, 17408, False),
        _qwen3("32B", 5120, 64, 64, 8, 25600, False),
    )
}


def shape_of(model: str | Path) -> Shape:
    """The shape of a model folder (its ``config.json``), or of a Qwen3 by its hub id or short name.

    Raises:
        StarError: neither, or a model that is no dense Qwen3.
    """
    file = Path(model) / "config.json"
    if file.is_file():
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            if config.get("model_type") != "qwen3":
                raise StarError(f"{model} is a {config.get('model_type')} model", "the plan knows dense Qwen3 models")
            return Shape(
                Path(model).resolve().name,
                config["hidden_size"],
                config["num_hidden_layers"],
                config["num_attention_heads"],
                config["num_key_value_heads"],
                config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
                config["intermediate_size"],
                config["vocab_size"],
                bool(config.get("tie_word_embeddings", False)),
            )
        except (ValueError, KeyError) as error:
            raise StarError(f"{file} describes no model ({error})", "give a Hugging Face model folder") from error
    name = str(model).rstrip("/").rsplit("/", 1)[-1].lower()
    name = name.removesuffix("-base")
    for known in QWEN3.values():
        if name in (known.name.lower(), known.name.lower().removeprefix("qwen3-")):
            return known
    raise StarError(f"the shape of {model} is not known", f"give a model folder, or one of {', '.join(QWEN3)}")
