"""The loop's tokenizer gives what the Hugging Face tokenizer gives."""

import random

import pytest

from star_rl.errors import StarError
from star_rl.policy.loop import tool_turn
from star_rl.policy.tokens import TURN_END, Tokens, tokens_of

TEXTS = (
    "",
    " ",
    "\n",
    tool_turn(["History 74\nAmong the candidates: 5, 7"]),
    tool_turn(["a", "", "<|im_end|>", "日本語😀 é e\u0301", "\ufffd\0\r\n\t  x"]),
    "<|im_start|><|endoftext|><tool_call></tool_call><think>",
    "i1 i2i3 i40 ~!@#$%^&*()",
    "word " * 300,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    from star_rl.student.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([" ".join(TEXTS)] * 3, [f"i{number}" for number in range(5)], folder)
    return transformers.AutoTokenizer.from_pretrained(str(folder))


def same(tokenizer, text):
    tokens = Tokens(tokenizer)
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    for _ in range(2):  # the second comes from memory
        assert list(tokens.encode(text)) == ids
    for part in (ids, ids[: len(ids) // 2], ids[1:]):
        assert tokens.decode(part) == tokenizer.decode(
            part, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


@pytest.mark.engine
@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_the_tokenizers(tokenizer, text):
    assert Tokens(tokenizer)._backend is not None
    same(tokenizer, text)


@pytest.mark.engine
def test_random_ids_decode_alike(tokenizer):
    source = random.Random(0)
    for _ in range(200):
        ids = [source.randrange(len(tokenizer)) for _ in range(source.randrange(40))]
        assert Tokens(tokenizer).decode(ids) == tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


@pytest.mark.engine
def test_padding_and_truncation_that_others_left_on_change_nothing(tokenizer):
    text = TEXTS[3]
    right = tokenizer.encode(text, add_special_tokens=False)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=512)
    assert list(Tokens(tokenizer).encode(text)) == right
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


@pytest.mark.engine
def test_a_tokenizer_with_ways_of_its_own_is_asked_itself(tokenizer):
    class Own(type(tokenizer)):
        def decode(self, ids, **options):
            return super().decode(ids, **options).upper()

    own = Own(tokenizer_object=tokenizer.backend_tokenizer)
    assert Tokens(own)._backend is None
    same(own, TEXTS[3])


def test_a_tokenizer_without_turn_end_is_refused():
    class Bare:
        def convert_tokens_to_ids(self, token):
            assert token == TURN_END

    with pytest.raises(StarError, match="no token"):
        tokens_of(Bare())
