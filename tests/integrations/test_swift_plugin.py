"""The ms-swift plug-in: its rendering equals verl's, its optimizer learns, the names it touches exist."""

import copy
import json
import random

import pytest

from star_rl.student.template import render
from star_rl.student.tokenizer import train_tokenizer

pytestmark = pytest.mark.engine

ITEMS = [str(i) for i in range(20, 60)]
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": "Neighbours.", "parameters": {"type": "object", "properties": {}}},
    }
    for name in ("UserCF", "ItemCF")
]


def call(r):
    name, key = r.choice([("UserCF", "user_id"), ("ItemCF", "item_id")])
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': {key: r.choice(ITEMS)}})}\n</tool_call>"


def conversation(seed, system=True, odd_start=True):
    """1 to 4 tool turns of 1 to 3 calls, some texts ugly; with `odd_start` some begin with newlines."""
    r = random.Random(seed)
    messages = [{"role": "system", "content": "Rank."}] if system else []
    messages.append({"role": "user", "content": "Candidates: " + ", ".join(r.sample(ITEMS, 20)) + r.choice(["", "\n"])})
    for _ in range(r.randint(1, 4)):
        calls = [call(r) for _ in range(r.randint(1, 3))]
        odd = "\n\nx " if odd_start else ""
        text = r.choice(["<plan>\n<Thinking>é 漢 🙂</Thinking>\n</plan>\n", "<Thinking>a  b</Thinking>\n", "", odd])
        messages.append({"role": "assistant", "content": text + "\n".join(calls)})
        for _ in calls:
            answer = r.choice([f"Often with {r.choice(ITEMS)}.", "Nothing\nis known.\n", "", '<plan> </JSON> \\ "q"'])
            messages.append({"role": "tool", "content": answer})
    ranking = json.dumps(r.sample(ITEMS, 10))
    messages.append({"role": "assistant", "content": f"<recommend>\n<JSON>{ranking}</JSON>\n</recommend>"})
    return messages


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    from swift.model import get_processor

    out = tmp_path_factory.mktemp("student")
    train_tokenizer([render(conversation(s), json.dumps(TOOLS)) for s in range(100)], ITEMS, out)
    (out / "config.json").write_text(json.dumps({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}))
    return get_processor(str(out), model_type="qwen3")


def swift_encoded(processor, row, name, **kwargs):
    from swift.template import get_template

    import star_rl.integrations.swift.plugin  # noqa: F401

    template = get_template(processor, template_type=name, **kwargs)
    template.set_mode("train")
    encoded = template.encode(row)
    return encoded["input_ids"], [int(x != -100) for x in encoded["labels"]]


def rollout(tokenizer, messages, tools, **kwargs):
    """Ids and loss mask as verl's agent loop builds them: prompt, generated turn, answers, generated turn, ..."""
    from verl.utils.tokenizer.continuous_token import QwenContinuousTokenBuilder

    builder = QwenContinuousTokenBuilder(tokenizer, chat_template_kwargs=kwargs)
    first = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
    ids = builder.build_initial_tokens(messages[:first], tools=tools)
    mask = [0] * len(ids)
    at = first
    while at < len(messages):
        said = tokenizer.encode(messages[at]["content"] + "<|im_end|>", add_special_tokens=False)
        ids = builder.merge_assistant_tokens(ids, said).token_ids
        mask += [1] * len(said)
        seen = at + 1
        at = next((i for i in range(seen, len(messages)) if messages[i]["role"] == "assistant"), len(messages))
        if at > seen:
            ids = builder.merge_context_tokens(messages[:seen], messages[:at], ids, tools=tools).token_ids
            mask += [0] * (len(ids) - len(mask))
    return ids, mask


@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize(("template", "kwargs"), [("star", {}), ("star_thinking", {"enable_thinking": False})])
def test_ids_and_loss_mask_equal_the_rollout(processor, system, template, kwargs):
    for seed in range(40):
        # in thinking mode ms-swift takes newlines at the start of a turn for a part of the empty think block
        messages = conversation(seed, system, odd_start=template == "star")
        for tools in (TOOLS, None):
            row = {"messages": [dict(m) for m in messages]} | ({"tools": json.dumps(tools)} if tools else {})
            if template == "star_thinking":
                got = swift_encoded(processor, row, template, loss_scale="default+ignore_empty_think")
            else:
                got = swift_encoded(processor, row, template)
            assert got == rollout(processor, messages, tools, **kwargs), f"seed {seed}"


def test_trained_tokens_are_what_the_model_writes(processor):
    messages = conversation(3)
    ids, mask = swift_encoded(processor, {"messages": messages, "tools": json.dumps(TOOLS)}, "star")
    said = "".join(m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant")
    assert processor.decode([i for i, m in zip(ids, mask, strict=True) if m]) == said


def test_render_equals_what_is_trained(processor):
    for seed in range(20):
        messages = conversation(seed, system=seed % 2 == 0)
        ids, _ = swift_encoded(processor, {"messages": messages, "tools": json.dumps(TOOLS)}, "star")
        assert processor.decode(ids) + "\n" == render(messages, json.dumps(TOOLS))


def test_muon_adamw_splits_steps_and_resumes():
    import torch
    from torch.optim import AdamW, Muon

    from star_rl.integrations.swift.plugin import MuonAdamW, split_parameters

    def make():
        torch.manual_seed(0)
        model = torch.nn.ModuleDict({"embed_tokens": torch.nn.Embedding(8, 4), "q": torch.nn.Linear(4, 4)})
        hidden, rest = split_parameters(model)
        assert [p.shape for p in hidden] == [(4, 4)]
        assert len(rest) == 2
        return model, MuonAdamW(Muon(hidden, lr=0.1), AdamW(rest, lr=0.01))

    def steps(model, optimizer, n):
        for _ in range(n):
            optimizer.zero_grad()
            model["q"](model["embed_tokens"](torch.arange(8))).pow(2).sum().backward()
            optimizer.step()

    model, optimizer = make()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    steps(model, optimizer, 2)
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.005]
    assert optimizer.muon.param_groups[0]["lr"] == 0.05
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    again, resumed = make()
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    steps(model, optimizer, 2)
    steps(again, resumed, 2)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_optim_args():
    from star_rl.integrations.swift.plugin import parse_optim_args

    assert parse_optim_args(None) == {}
    assert parse_optim_args("muon_lr=1.5e-2, momentum=0.9") == {"muon_lr": 0.015, "momentum": 0.9}
    with pytest.raises(ValueError, match="'lr'"):
        parse_optim_args("lr=1")


def test_contract_with_ms_swift():
    """Every name of ms-swift that the plug-in and the runner touch; fails when upstream moves one."""
    import inspect
    from importlib.metadata import version
    from importlib.util import find_spec
    from pathlib import Path

    from swift.agent_template import agent_template_map
    from swift.agent_template.hermes import HermesAgentTemplate
    from swift.optimizers import OptimizerCallback, optimizers_map
    from swift.template import TEMPLATE_MAPPING, register_template
    from swift.template.templates.qwen import Qwen3MixedTemplateMeta, QwenTemplateMeta

    from star_rl.integrations.swift import plugin

    assert version("ms-swift") == "4.6.0"
    assert "exist_ok" in inspect.signature(register_template).parameters
    assert list(inspect.signature(HermesAgentTemplate._add_tool_call_prefix).parameters) == [
        "self",
        "tool_content",
        "pre_message",
    ]
    assert list(inspect.signature(HermesAgentTemplate._format_tools).parameters)[1:] == [
        "tools",
        "system",
        "user_message",
    ]
    assert list(inspect.signature(OptimizerCallback.create_optimizer).parameters) == ["self", "model"]
    assert Qwen3MixedTemplateMeta("x").non_thinking_prefix == "<think>\n\n</think>\n\n"
    assert QwenTemplateMeta("x").chat_sep == ["<|im_end|>\n"]
    assert agent_template_map[plugin.AGENT_TEMPLATE] is plugin.StarAgentTemplate
    assert optimizers_map[plugin.OPTIMIZER] is plugin.MuonCallback
    assert {plugin.TEMPLATE, plugin.TEMPLATE_THINKING} <= set(TEMPLATE_MAPPING)
    cli = Path(find_spec("swift").origin).parent / "cli"
    assert "sft_main()" in (cli / "sft.py").read_text()
    assert "NPROC_PER_NODE" in (cli / "main.py").read_text()
