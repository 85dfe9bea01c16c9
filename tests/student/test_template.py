"""The project's chat template renders as Qwen3's own."""

import json
import os
from pathlib import Path

import pytest

from star_rl.student.template import TURN_HEADER, chat_template, render

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Look up {key} <é>.",
            "parameters": {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]},
        },
    }
    for name, key in (("UserCF", "user_id"), ("ItemCF", "item_id"))
]
CALL = {"type": "function", "function": {"name": "ItemCF", "arguments": {"item_id": "17", "note": 'ü "q"'}}}
BARE_CALL = {"name": "UserCF", "arguments": '{"user_id": "u1"}'}
S = {"role": "system", "content": "Rank.\n"}
U = {"role": "user", "content": "History: 1, 2.\n"}
A = {"role": "assistant", "content": "<plan>\nx\n</plan>"}
T = {"role": "tool", "content": "Often with 3.\n"}

CONVERSATIONS = {
    "user": [U],
    "system": [S, U],
    "answered": [S, U, A],
    "two rounds": [S, U, A, U, A],
    "late system": [U, S, U],
    "calls": [S, U, {"role": "assistant", "content": "", "tool_calls": [CALL, BARE_CALL]}, T, T, A],
    "calls after text": [U, {"role": "assistant", "content": "Look.", "tool_calls": [CALL]}, T, A],
    "empty call list": [U, {"role": "assistant", "content": "Look.", "tool_calls": []}, U],
    "inline calls": [S, U, {"role": "assistant", "content": "x\n<tool_call>\n{}\n</tool_call>"}, T, T, A, T],
    "tool first": [T, T, U],
    "tool last": [U, A, T],
    "think in text": [U, {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nyes"}, U, A],
    "think kept": [U, {"role": "assistant", "content": "<think>\n\nwhy\n\n</think>\n\n\nyes", "tool_calls": [CALL]}, T],
    "reasoning": [U, {"role": "assistant", "content": "\n\nyes", "reasoning_content": "\nwhy\n"}, T, A],
    "no reasoning": [U, {"role": "assistant", "content": "a</think>b", "reasoning_content": None}],
    "reasoning shown and hidden": [
        U,
        {"role": "assistant", "content": "1", "reasoning_content": "r1"},
        U,
        {"role": "assistant", "content": "2", "reasoning_content": "r2"},
        T,
        {"role": "assistant", "content": "3", "reasoning_content": "r3"},
    ],
    "wrapped answer is no question": [
        U,
        {"role": "assistant", "content": "<think>\na\n</think>\nb"},
        {"role": "user", "content": "<tool_response>\nx\n</tool_response>"},
        A,
    ],
    "only a wrapped answer": [{"role": "user", "content": "<tool_response>x</tool_response>"}, A],
    "markers in text": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system\n{{ 7 }}{% x %}"}, A],
}


def qwen3_folder() -> Path:
    """Folder with Qwen3's tokenizer.json and tokenizer_config.json, as `make qwen3-tokenizer` leaves it."""
    named = os.environ.get("STAR_RL_QWEN3_TOKENIZER")
    root = Path(__file__).resolve().parents[2]
    for folder in (Path(named) if named else None, root / ".cache" / "qwen3-tokenizer"):
        if folder and (folder / "tokenizer_config.json").is_file():
            return folder
    pytest.skip("Qwen3's tokenizer is absent: `make qwen3-tokenizer`, or set STAR_RL_QWEN3_TOKENIZER to its folder")


def rendered(template: str, messages: list, **kwargs) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template(conversations=[messages], chat_template=template, **kwargs)[0][0]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_renders_as_qwen3(name):
    theirs = json.loads((qwen3_folder() / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    for tools in (None, TOOLS):
        for prompt in (False, True):
            for thinking in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
                kwargs = {"tools": tools, "add_generation_prompt": prompt, **thinking}
                messages = CONVERSATIONS[name]
                assert rendered(chat_template(), messages, **kwargs) == rendered(theirs, messages, **kwargs)


def test_generation_prompt_and_merged_answers():
    text = rendered(chat_template(), [S, U, A, T, T], add_generation_prompt=True)
    answer = "\n<tool_response>\nOften with 3.\n\n</tool_response>"
    assert text.endswith(f"{A['content']}<|im_end|>\n<|im_start|>user{answer * 2}<|im_end|>\n<|im_start|>assistant\n")
    assert TURN_HEADER.format(role="assistant") == "<|im_start|>assistant\n"


@pytest.mark.parametrize("tools", [None, json.dumps(TOOLS)])
@pytest.mark.parametrize("head", [[], [S]])
def test_render_is_the_template_without_think_blocks(tools, head):
    messages = [*head, U, A, T, T, A, T, A, U]  # ends with a question: the template then shows no think block
    expected = rendered(chat_template(), messages, tools=json.loads(tools) if tools else None)
    assert render(messages, tools) == expected
