"""A tiny tokenizer that lets a tiny student learn in minutes.

Three layers, all in one `tokenizer.json` of the `tokenizers` library:

- **Added tokens**: Qwen3's markers, the turn headers, every item id and every further *word* the caller names, such as
  categories (one token each, matched as a whole word), and *phrases*: the constant parts of the corpus (tags, JSON
  scaffolding, tool schemas, fixed sentences).
- **Byte-level BPE** for what is left, with digits kept apart. All 256 bytes are in the vocabulary, so any text
  round-trips.

Phrases are found with a "superword" BPE, whose merges may cross spaces and lines. Only the merges still in use at the
end become phrases, so intermediate merges need no rows in the embedding and a constant is always the same token.
Headers end a phrase, so encoding a conversation whole or turn by turn gives the same ids, as the trainers need.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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


def token_counter(path: Path) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text with a ``tokenizer.json``; repeated texts are counted once."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lru_cache(1 << 16)(lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids))


class TokenizerReport(NamedTuple):
    """What was built. `tokens_per_text` is the mean over the training texts."""

    vocab_size: int
    items: int
    items_spelled: int
    tokens_per_text: float


def _any_of(texts: Iterable[str]) -> str:
    """Pattern of these texts, the longest first."""
    return "|".join(re.escape(text) for text in sorted(texts, key=lambda text: (-len(text), text)))


def _word_boundary(ids: Sequence[str]) -> str:
    return rf"(?<!\w)(?:{_any_of(ids)})(?!\w)"


def _pieces(texts: Iterable[str], item_ids: Sequence[str], words: Sequence[str]) -> list[str]:
    """The corpus cut at markers, headers, ids and words, which are left out.

    A word right behind an id (`17 (Drama), `) keeps its punctuation: it is an attribute of that id, and one token for
    the whole of it saves two for every item of a prompt.
    """
    fixed = "|".join(re.escape(m) for m in (*CONTROL, *MARKERS))
    headers = "|".join(re.escape(h) for h in HEADERS)
    cut = rf"{fixed}|(?<=<\|im_start\|>)(?:{headers})"
    outer = re.compile(f"{cut}|{_word_boundary(item_ids)}" if item_ids else cut)
    if not words:
        return [p for t in texts for p in outer.split(t) if p]
    inner = re.compile(_word_boundary(words))
    attribute = re.compile(rf"[^\w\n]{{1,3}}{_word_boundary(words)}[^\w\n]{{1,3}}")
    pieces: list[str] = []
    for text in texts:
        for piece in outer.split(text):
            if head := attribute.match(piece):
                pieces.append(head.group())
                piece = piece[head.end() :]
            pieces.extend(p for p in inner.split(piece) if p)
    return pieces


def _train_bpe(
    pieces: Counter[str], split: str | None, vocab_size: int, min_frequency: int, special: Sequence[str] = ()
) -> Tokenizer:
    """Train a byte-level BPE; ``special`` tokens get the first ids, on top of ``vocab_size``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    to_bytes: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if split is not None:
        to_bytes = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), to_bytes])
    bpe.pre_tokenizer = to_bytes
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size + len(special),
        min_frequency=min_frequency,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        special_tokens=list(special),
    )
    bpe.train_from_iterator(sorted(pieces.elements()), trainer)
    return bpe


def _phrases(pieces: Counter[str], limit: int, min_count: int) -> list[str]:
    """Constant parts that occur at least `min_count` times, the most useful `limit` of them.

    A phrase ends in no word character and begins with no digit, so it never runs into the id or number beside it.
    """
    superword = _train_bpe(pieces, None, 16384, min_count)
    uses: Counter[str] = Counter()
    for piece, n in pieces.items():
        for token_id in superword.encode(piece).ids:
            phrase = re.sub(r"^\d+|\w+$", "", superword.decode([token_id]))
            if len(phrase) > 1 and "\ufffd" not in phrase:
                uses[phrase] += n
    kept = list(uses)
    for _ in range(3):  # phrases compete for the same text: count again with the longest match, drop the losers
        if not kept:
            return []
        longest = re.compile(_any_of(kept))
        uses = Counter()
        for piece, n in pieces.items():
            for phrase in longest.findall(piece):
                uses[phrase] += n
        ranked = sorted((p for p, n in uses.items() if n >= min_count), key=lambda p: (-uses[p] * (len(p) - 1), p))
        kept = ranked[:limit]
    return sorted(kept)


def train_tokenizer(
    texts: Sequence[str],
    item_ids: Iterable[str],
    out: Path,
    *,
    words: Iterable[str] = (),
    bpe_size: int = 512,
    max_phrases: int = 384,
    phrase_share: float = 0.02,
    max_length: int = 4096,
) -> TokenizerReport:
    """Trains the tokenizer on whole rendered conversations and saves it to `out`, chat template included.

    The same arguments give the same files, byte for byte.

    Args:
        texts: conversations as text, with their markers (`<|im_start|>user\\n...`).
        item_ids: the catalogue. Each id becomes one token; ids with characters beyond ASCII, which a byte-level decoder
            cannot give back, are spelled by the BPE and counted in the report.
        words: further values that vary inside constant sentences: one token each, and no phrase grows over them.
        bpe_size: size of the byte-level BPE, its 256 bytes included.
        phrase_share: least number of occurrences of a phrase, as a share of the number of texts.
        max_length: `model_max_length` of the tokenizer, tokens.

    Raises:
        StarError: no text, an id that is empty or not unique, or `bpe_size` below 256.
    """
    from tokenizers import AddedToken

    ids = list(item_ids)
    if not texts:
        raise StarError("no text to train a tokenizer on", "give it the rendered SFT conversations")
    if bpe_size < 256:
        raise StarError(f"bpe_size={bpe_size} cannot hold the 256 bytes", "use 256 or more")
    if len(set(ids)) != len(ids):
        twice = next(i for i, n in Counter(ids).items() if n > 1)
        raise StarError(f"item id {twice!r} occurs twice in the catalogue", "give each item one row")
    if blank := [i for i in ids if not i.strip()]:
        raise StarError(f"item id {blank[0]!r} is blank", "drop the item or name it")
    reserved = {*CONTROL, *MARKERS, *HEADERS}
    vary = {w for w in words if w.strip()}
    whole = sorted(i for i in {*ids, *vary} if i.isascii() and i not in reserved and re.fullmatch(r"\w(?:.*\w)?", i))
    pieces = Counter(_pieces(texts, [i for i in whole if i not in vary], [w for w in whole if w in vary]))
    phrases = _phrases(pieces, max_phrases, max(2, round(phrase_share * len(texts))))
    rest = re.compile(_any_of(phrases) or r"\Z.")  # without phrases a pattern that matches nothing
    left: Counter[str] = Counter()
    for piece, n in pieces.items():
        for part in filter(None, rest.split(piece)):
            left[part] += n
    bpe = _train_bpe(left, _BPE_SPLIT, bpe_size, 2, CONTROL)
    bpe.add_tokens([AddedToken(t, special=False, normalized=False) for t in (*MARKERS, *HEADERS, *phrases)])
    bpe.add_tokens([AddedToken(t, special=False, normalized=False, single_word=True) for t in whole])

    out.mkdir(parents=True, exist_ok=True)
    bpe.save(str(out / "tokenizer.json"))
    (out / "chat_template.jinja").write_text(chat_template(), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    sample = texts[:: max(1, len(texts) // 500)]
    tokens = sum(len(e.ids) for e in bpe.encode_batch(list(sample), add_special_tokens=False))
    items = len({*ids} & {*whole})
    return TokenizerReport(bpe.get_vocab_size(), items, len(ids) - items, tokens / len(sample))
