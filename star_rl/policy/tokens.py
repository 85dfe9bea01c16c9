"""Encode and decode as a tokenizer's ``encode`` and ``decode`` do, but faster.

A rollout waits while its tool turn is encoded. What transformers adds to the encoding (padding, offsets, a
``BatchEncoding``) takes longer than the encoding, so the ``tokenizers`` library is called directly. The samples of a
prompt ask for the same evidence, so the ids of recent texts are cached.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from star_rl.errors import StarError

TURN_END = "<|im_end|>"
#: Cached texts: about 5 kB each if an answer has 512 tokens.
_CACHED = 4096


class Tokenizer(Protocol):
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, ids: Sequence[int], **kwargs: Any) -> str: ...
    def convert_tokens_to_ids(self, token: str) -> int | None: ...
    def __hash__(self) -> int: ...


class Tokens:
    """Encodes and decodes for one tokenizer. ``end`` is the id of :data:`TURN_END`; ``encode`` (text to ids, without
    special tokens) is cached.

    Raises:
        StarError: the tokenizer has no token :data:`TURN_END`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        end = tokenizer.convert_tokens_to_ids(TURN_END)
        if end is None:
            raise StarError(f"the tokenizer has no token {TURN_END}", "use a checkpoint with Qwen3's chat tokens")
        self.end = end
        self._tokenizer: Any = tokenizer
        self._backend = _backend(tokenizer)
        self.encode: Callable[[str], tuple[int, ...]] = functools.lru_cache(maxsize=_CACHED)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        backend = self._backend
        if backend is not None and backend.padding is None and backend.truncation is None:
            (encoding,) = backend.encode_batch_fast([text], add_special_tokens=False)
            return tuple(encoding.ids)
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        if self._backend is not None:
            return self._backend.decode(ids, skip_special_tokens=False)
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


#: Returns the :class:`Tokens` of a tokenizer, one a process.
tokens_of = functools.lru_cache(maxsize=8)(Tokens)


def _backend(tokenizer: Any) -> Any:
    """Return the tokenizer's ``tokenizers.Tokenizer`` if that alone decides ids and text, else None."""
    if not hasattr(tokenizer, "backend_tokenizer") or getattr(tokenizer, "split_special_tokens", False):
        return None
    from transformers import PreTrainedTokenizerFast

    kind, names = type(tokenizer), ("encode", "decode", "_encode_plus", "_decode")
    own = isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(kind, name, None) is getattr(PreTrainedTokenizerFast, name, None) for name in names
    )
    return tokenizer.backend_tokenizer if own else None
