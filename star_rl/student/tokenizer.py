"""A tiny tokenizer that lets a tiny student learn in minutes.

Three layers, all in one `tokenizer.json` of the `tokenizers` library:

- **Added tokens**: Qwen3's markers, the turn headers, every item id (one token per id, matched as a whole word), and
  *phrases*: the constant parts of the corpus (tags, JSON scaffolding, tool schemas, fixed sentences).
- **Byte-level BPE** for what is left, with digits kept apart. All 256 bytes are in the vocabulary, so any text
  round-trips.

Phrases are found with a "superword" BPE: a BPE whose merges may cross spaces and lines, trained on the corpus cut at
the markers and ids. Only the merges that are still in use at the end become phrases. Making them added tokens, instead
of keeping that BPE, has two effects: the intermediate merges need no rows in the embedding, and a constant is always
one and the same token whatever stands beside it. Headers end a phrase, so encoding a conversation whole or turn by turn
gives the same ids; the token builders of the trainers rely on it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_rl.errors import StarError
from star_rl.student.template import chat_template

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Control tokens, never part of a text that a user wrote; ids 0, 1, 2.
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
#: Markers of Qwen3 that are ordinary text to the decoder (`special: false` there too).
MARKERS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
#: Turn headers, so that no phrase grows across the border between environment and model.
HEADERS = ("system\n", "user\n", "assistant\n")

_BPE_SPLIT = r"\p{N}| ?[^\s\p{L}\p{N}]+|\s?\p{L}+|\s"


@dataclass(frozen=True)
class TokenizerReport:
    """What was built. `tokens_per_text` is the mean over the training texts."""

    vocab_size: int
    items: int
    items_spelled: int
    phrases: int
    tokens_per_text: float
    characters_per_token: float


def _word_boundary(ids: Sequence[str]) -> str:
    alternatives = "|".join(re.escape(i) for i in sorted(ids, key=lambda i: (-len(i), i)))
    return rf"(?<!\w)(?:{alternatives})(?!\w)"


def _pieces(texts: Iterable[str], item_ids: Sequence[str]) -> list[str]:
    """The corpus cut at markers, headers and ids, which are left out."""
    fixed = "|".join(re.escape(m) for m in (*CONTROL, *MARKERS))
    headers = "|".join(re.escape(h) for h in HEADERS)
    cut = re.compile(rf"(?:{fixed}|(?<=<\|im_start\|>)(?:{headers})" + (f"|{_word_boundary(item_ids)}" if item_ids else "") + ")")
    return [p for t in texts for p in cut.split(t) if p]
