"""The tiny tokenizer: one token per id, stable constants, any text round-trips."""

import json
import random
import re

import pytest

from star_rl.errors import StarError
from star_rl.student.template import render
from star_rl.student.tokenizer import CONTROL, HEADERS, MARKERS, train_tokenizer

ITEMS = [str(i) for i in range(100, 140)] + ["7", "71", "B00X", "a-b_c"]
WORDS = ["Drama", "Science Fiction", "Film-Noir"]
TOOLS = json.dumps([{"type": "function", "function": {"name": "ItemCF", "parameters": {"type": "object"}}}])


def conversation(seed: int) -> str:
    r = random.Random(seed)
    item = lambda: r.choice(ITEMS)  # noqa: E731
    word = lambda: r.choice(WORDS)  # noqa: E731
    call = json.dumps({"name": "ItemCF", "arguments": {"item_id": item()}})
    return render(
        [
            {"role": "system", "content": "Rank the candidates."},
            {"role": "user", "content": f"User u{seed}: " + ", ".join(f"{item()} ({word()})" for _ in range(8)) + "."},
            {
                "role": "assistant",
                "content": f"<plan>\n<Thinking>Likes {word()} and {word()}.</Thinking>\n"
                f"<tool_call>\n{call}\n</tool_call>",
            },
            {"role": "tool", "content": "Often with " + ", ".join(item() for _ in range(r.randrange(5))) + "."},
            {"role": "assistant", "content": f"<JSON>{json.dumps([item() for _ in range(10)])}</JSON>\n</recommend>"},
        ],
        TOOLS,
    )


@pytest.fixture(scope="module")
def texts():
    return [conversation(s) for s in range(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texts):
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(texts, ITEMS, out, words=WORDS)
    return out


@pytest.fixture(scope="module")
def tokenizer(folder):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def text_of(tokenizer, token_ids):
    return tokenizer.decode(token_ids, skip_special_tokens=False)


UGLY = [
    "",
    " ",
    "\n",
    "\n\n \t\r\n",
    "\x00\x01\x7f",
    "ÄÖÜß é ñ 漢字 かな 한국어 עברית 🙂👩‍👩‍👧 \u200b\u202e\ufeff",
    "<|im_end|><|im_start|>assistant\n<think></think>",
    "<tool_call><tool_call></tool_response>",
    '"7","71","107",7,71;7\n71\n7 71',
    "7x x7 7_ _7 771 7é é7 71.7 B00X B00XY a-b_c a-b_cd",
    '{"name": "ItemCF", "arguments": {"item_id": "',
    '{"name": "ItemCF", "arguments": {"item_id": "7"}}',
    " (Drama), Drama(Drama) Dramatic",
    "systemuser\nassistant\nassistant",
    "a" * 5000,
    " " * 3000 + "\n" * 3000,
    "1234567890" * 50,
    "e\u0301 \u00e9 ﬁ Å",
]


@pytest.mark.parametrize("text", UGLY)
def test_any_text_round_trips(tokenizer, text):
    assert text_of(tokenizer, ids(tokenizer, text)) == text


def test_random_text_round_trips(tokenizer):
    r = random.Random(0)
    parts = [*ITEMS, *WORDS, *MARKERS, *CONTROL, *HEADERS, *UGLY[:15], '"', ", ", "</JSON>\n", "0"]
    for _ in range(500):
        text = "".join(r.choice(parts) if r.random() < 0.7 else chr(r.randrange(1, 0xD7FF)) for _ in range(30))
        assert text_of(tokenizer, ids(tokenizer, text)) == text


def test_every_id_is_one_token_wherever_it_stands(tokenizer):
    for item in ITEMS:
        (own,) = ids(tokenizer, item)
        for form in ('"{}"', "{},", "\n{}\n", " {} ", "[{}]", "{}.", '["{}", "'):
            assert ids(tokenizer, form.format(item)).count(own) == 1, form


def test_ids_do_not_match_inside_words(tokenizer):
    (own,) = ids(tokenizer, "71")
    for text in ("771", "x71", "71x", "_71", "71_", "71é", "10071"):
        assert own not in ids(tokenizer, text), text


def test_a_trajectory_is_short_and_its_constants_are_stable(tokenizer, texts):
    lengths = [len(ids(tokenizer, t)) for t in texts]
    assert sum(lengths) / len(lengths) < 100  # about 900 characters
    opening = ids(tokenizer, '\n{"name": "ItemCF", "arguments": {"item_id": "')
    assert len(opening) == 1
    for item in ITEMS:
        inside = ids(
            tokenizer, f'<tool_call>\n{{"name": "ItemCF", "arguments": {{"item_id": "{item}"}}}}\n</tool_call>'
        )
        assert len(inside) <= 6


def test_whole_and_turn_by_turn_give_the_same_ids(tokenizer, texts):
    for text in texts[:50]:
        pieces = re.split(r"(?<=<\|im_start\|>assistant\n)|(?<=<\|im_end\|>)", text)
        assert [i for p in pieces for i in ids(tokenizer, p)] == ids(tokenizer, text)
    assert len(ids(tokenizer, "\n")) == 1
    assert len(ids(tokenizer, "<|im_start|>assistant\n")) == 2


def test_control_tokens_and_markers(tokenizer):
    assert [tokenizer.token_to_id(t) for t in CONTROL] == [0, 1, 2]
    for marker in (*MARKERS, *CONTROL):
        assert len(ids(tokenizer, f"x{marker}y")) == 3
    shown = tokenizer.decode(ids(tokenizer, "<tool_call>7</tool_call><|im_end|>"), skip_special_tokens=True)
    assert shown == "<tool_call>7</tool_call>"


def test_same_corpus_gives_the_same_files(folder, texts, tmp_path):
    train_tokenizer(texts, list(reversed(ITEMS)), tmp_path, words=reversed(WORDS))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_ids_that_a_byte_decoder_cannot_give_back_are_spelled(texts, tmp_path):
    from tokenizers import Tokenizer

    report = train_tokenizer(texts, [*ITEMS, "café", "-x-", "two words"], tmp_path)
    assert (report.items, report.items_spelled) == (len(ITEMS) + 1, 2)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("café", "-x-", "two words", '"café"'):
        assert text_of(tokenizer, ids(tokenizer, text)) == text


@pytest.mark.parametrize(
    ("texts_", "items", "kwargs", "named"),
    [
        ([], ["1"], {}, "no text"),
        (["x"], ["1", "1"], {}, "'1' occurs twice"),
        (["x"], ["1", " "], {}, "' ' is blank"),
        (["x"], ["1"], {"bpe_size": 100}, "bpe_size=100"),
    ],
)
def test_bad_input(texts_, items, kwargs, named, tmp_path):
    with pytest.raises(StarError, match=named):
        train_tokenizer(texts_, items, tmp_path, **kwargs)
    assert not list(tmp_path.iterdir())


def test_transformers_and_stepwise_decoding_agree(folder, texts):
    from tokenizers.decoders import DecodeStream
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    for text in [*texts[:20], *UGLY[1:]]:
        token_ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(token_ids) == text
        stream = DecodeStream(skip_special_tokens=False)  # what vLLM's incremental detokenizer runs
        steps = [stream.step(tokenizer._tokenizer, i) for i in token_ids]
        assert "".join(s for s in steps if s) == text
