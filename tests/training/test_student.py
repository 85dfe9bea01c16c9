"""A student that exists already: whose models are taken, and a Llama with a foreign tokenizer in our chat form."""

import asyncio
import json

import pytest

from star_rl.errors import StarError
from star_rl.evidence import StoreAnswer
from star_rl.integrations.swift.recipe import compose
from star_rl.policy.loop import Budget, Generation, render_prompt, rollout
from star_rl.student.template import chat_template, render
from star_rl.tools import TOOL_SCHEMAS, ToolBox
from star_rl.training.student import given_student, with_our_template

FOREIGN = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"
ASKED = [
    {"role": "system", "content": "Rank."},
    {"role": "user", "content": "User 1170, 3 stars.\n\n  12 | Café №7 漢 ▁x ◌́ <|endoftext|>\n"},
]
TURNS = [
    '<plan>\n<Thinking>a  b\n\n 12</Thinking>\n<JSON>["x"]</JSON>\n</plan>\n'
    '<tool_call>\n{"name": "UserCF", "arguments": {"user_id": "1170"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "ItemCF", "arguments": {"item_ids": ["12", "007"]}}\n</tool_call>',
    '<tool_call>\n{"name": "ItemCF", "arguments": {"item_ids": ["12"]}}\n</tool_call>',
    '<recommend>\n<JSON>["12", "7"]</JSON>\n</recommend>',
]


def model(folder, kind="llama", tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
    """A model folder with a foreign chat template and a byte-level BPE that splits digits, as SmolLM2's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir()
    bpe = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Sequence(split), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(tokens), initial_alphabet=alphabet)
    bpe.train_from_iterator([render([*ASKED, {"role": "assistant", "content": text}], None) for text in TURNS], trainer)
    bpe.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "chat_template": FOREIGN}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "architectures": ["LlamaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    root = tmp_path_factory.mktemp("student")
    with_our_template(model(root / "llama"), root / "made")
    return root / "made"


@pytest.fixture(scope="module")
def played(student):
    """The whole conversation, and the rollout in which the policy writes :data:`TURNS`."""
    from transformers import AutoTokenizer

    class Store:
        def answer(self, tool, keys, named=None):
            return StoreAnswer(f"\n{tool}: {', '.join(keys)}  12 5\n", ())

    class Engine:
        async def generate(self, prompt_ids, sampling_params, request_id):
            return Generation(tokenizer.encode(next(said) + "<|im_end|>", add_special_tokens=False))

    said = iter(TURNS)
    tokenizer = AutoTokenizer.from_pretrained(student)
    prompt = render_prompt(tokenizer, ASKED, TOOL_SCHEMAS)
    result = asyncio.run(rollout(Engine(), tokenizer, prompt, ToolBox(Store()), Budget(), {}))
    assert result.stop == "answered" and result.counts["tool_calls_ok"] == 3
    return tokenizer, [*ASKED, *result.messages], result


def test_the_rollout_s_ids_are_those_of_the_whole_conversation(played):
    tokenizer, messages, result = played
    whole = render(messages, json.dumps(TOOL_SCHEMAS))
    ids = result.prompt_ids + result.response_ids
    assert ids + tokenizer.encode("\n", add_special_tokens=False) == tokenizer.encode(whole, add_special_tokens=False)
    assert tokenizer.decode(ids) + "\n" == whole  # nothing that a tokenizer leaves out or cleans up


@pytest.mark.engine
def test_ms_swift_trains_the_rollout_s_ids_on_its_mask(student, played):
    from swift.model import get_processor
    from swift.template import get_template

    import star_rl.integrations.swift.plugin  # noqa: F401

    _, messages, result = played
    kind = compose([{}], data=student, out=student, model=student)["model_type"]
    template = get_template(get_processor(str(student), model_type=kind), template_type="star")
    template.set_mode("train")
    encoded = template.encode({"messages": messages, "tools": json.dumps(TOOL_SCHEMAS)})
    assert encoded["input_ids"] == result.prompt_ids + result.response_ids
    trained = [int(label != -100) for label in encoded["labels"]]
    assert trained == [0] * len(result.prompt_ids) + result.response_mask


def test_a_model_of_another_family_gets_our_template_and_keeps_its_weights(tmp_path, student):
    source = student.parent / "llama"
    assert given_student(str(source)) == "llama"
    for _ in range(2):  # the second time over what the first left
        with_our_template(source, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").resolve() == source / "model.safetensors"
    assert (tmp_path / "model" / "chat_template.jinja").read_text() == chat_template()
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert (config["eos_token"], config["pad_token"]) == ("<|im_end|>", "<|im_end|>") and "chat_template" not in config
    assert json.loads((source / "tokenizer_config.json").read_text())["chat_template"] == FOREIGN


def test_a_qwen3_is_taken_as_it_is_and_a_hub_id_is_one(tmp_path):
    assert given_student(str(model(tmp_path / "qwen", "qwen3", ("<|endoftext|>",)))) == "qwen3"
    assert given_student("Qwen/Qwen3-8B") is None


@pytest.mark.parametrize("lacking", ["<|im_start|>", "<|im_end|>"])
def test_a_tokenizer_without_chatml_is_refused(tmp_path, lacking):
    tokens = [token for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>") if token != lacking]
    folder = model(tmp_path / "llama", tokens=tokens)
    with pytest.raises(StarError, match=rf"is a llama model whose tokenizer has no token .*{lacking[2:-2]}"):
        given_student(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_that_is_no_model_is_refused(tmp_path, name):
    (model(tmp_path / "llama") / name).unlink()
    with pytest.raises(StarError, match=f"holds no {name}"):
        given_student(str(tmp_path / "llama"))
