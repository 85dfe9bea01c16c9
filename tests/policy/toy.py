"""A toy world, and a student that learned in seconds to call both tools and to rank: small enough for tests on real
engines."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from star_rl.evidence import StoreAnswer

ITEMS = [f"i{number}" for number in range(40)]
USERS = [f"u{number}" for number in range(60)]
CANDIDATES = 8


class ToyStore:
    """The duck type of an evidence store, kept in memory."""

    def __init__(self, neighbours: dict[str, dict[str, list[str]]]) -> None:
        self._neighbours = neighbours

    @classmethod
    def open(cls, path: str | Path, scenario: str = "", fingerprint: str = "") -> ToyStore:
        return cls(json.loads((Path(path) / "store.json").read_text()))

    def answer(self, tool: str, keys: Sequence[str], named: Any = None) -> StoreAnswer | None:
        found = self._neighbours.get(tool, {}).get(keys[0])
        return None if found is None else StoreAnswer("Liked together.", found)


def make_store(folder: Path, seed: int = 0) -> ToyStore:
    rng = random.Random(seed)
    table = {
        "UserCF": {user: rng.sample(ITEMS, 20) for user in USERS},
        "ItemCF": {item: rng.sample(ITEMS, 20) for item in ITEMS},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "store.json").write_text(json.dumps(table))
    return ToyStore(table)


def near(item_ids: str) -> tuple[str, list[str]]:
    """A tool of one's own in the place of ItemCF."""
    return "Liked together.", random.Random(item_ids).sample(ITEMS, 20)


near.schema = {  # type: ignore[attr-defined]
    "type": "function",
    "function": {
        "name": "Near",
        "description": "Find near items.",
        "parameters": {"type": "object", "properties": {"item_ids": {"type": "string"}}, "required": ["item_ids"]},
    },
}


class Doubter:
    """An environment that doubts every first answer."""

    def __init__(self, data: Any) -> None:
        self._asked = 0

    def reset(self, task: Any) -> None:
        assert set(task["candidates"]) <= set(ITEMS)

    def step(self, text: str) -> str | None:
        self._asked += 1
        return "Sure?" if self._asked == 1 else None


def make_tasks(store: ToyStore, count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Tasks whose ground truth is a candidate among the user's neighbours."""
    rng = random.Random(seed)
    tasks = []
    for number in range(count):
        user, candidates = rng.choice(USERS), rng.sample(ITEMS, CANDIDATES)
        near = [item for item in store.answer("UserCF", [user]).ids if item in candidates]
        truth, last = (near[0] if near else candidates[0]), rng.choice(ITEMS)
        content = f"User {user} last chose {last}. Candidates: {', '.join(candidates)}"
        tasks.append(
            {
                "task_id": f"t{number}",
                "user_id": user,
                "last": last,
                "candidates": candidates,
                "ground_truth": truth,
                "prompt": [
                    {"role": "system", "content": "You recommend items."},
                    {"role": "user", "content": content},
                ],
            }
        )
    return tasks


def turns_of(task: dict[str, Any], ranking: list[str]) -> list[str]:
    """What the toy teacher writes: one turn that calls both tools, one that ranks."""
    calls = "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {{"{argument}": "{key}"}}}}\n</tool_call>'
        for name, argument, key in (("UserCF", "user_id", task["user_id"]), ("ItemCF", "item_ids", task["last"]))
    )
    head = (
        '<plan>\n<Thinking>Profile first.</Thinking>\n<JSON>["User_Profile_Summary"]</JSON>\n</plan>\n<user_profile>\n'
    )
    tail = (
        '<Thinking>Seen.</Thinking>\n<JSON>["likes it"]</JSON>\n</user_profile>\n'
        '<reflection>\n<Thinking>Fine.</Thinking>\n<JSON>{"correct": "yes"}</JSON>\n</reflection>\n'
        "<recommend>\n<Thinking>Rank.</Thinking>\n"
    )
    return [head + calls, tail + f"<JSON>{json.dumps(ranking)}</JSON>\n</recommend>"]


def grpo_rows(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a GRPO parquet."""
    return [
        {
            "data_source": "toy",
            "agent_name": "star_agent",
            "prompt": task["prompt"],
            "ability": "recommend",
            "reward_model": {"style": "rule", "ground_truth": task["ground_truth"]},
            "extra_info": {
                "index": number,
                "split": "train",
                "task_id": task["task_id"],
                "candidates": task["candidates"],
            },
        }
        for number, task in enumerate(tasks)
    ]


REWARD = """
import re, zlib

def compute_score(data_source, solution_str, ground_truth, extra_info):
    found = re.findall(r"<recommend>.*?<JSON>\\[(.*?)\\]</JSON>", solution_str, re.S)
    ranking = re.findall(r'"([^"]*)"', found[-1]) if found else []
    rank = ranking.index(ground_truth) + 1 if ground_truth in ranking else 0
    score = (1.0 / rank if rank else 0.0) + 0.1 * solution_str.count("<tool_call>")
    return {"score": score, "acc": float(rank == 1), "seen": float(zlib.crc32(solution_str.encode()))}
"""


def make_policy(folder: Path, steps: int = 80, seed: int = 0, own: str = "") -> tuple[Path, Path, list[dict[str, Any]]]:
    """Write a store and a trained model; returns (model folder, store folder, tasks).

    Args:
        own: name of a tool of one's own that the policy learns to call in the place of ItemCF.
    """
    import torch
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    from star_rl.own import open_tools, schemas
    from star_rl.policy.loop import render_prompt, tool_turn
    from star_rl.student.model import StudentShape, make_student
    from star_rl.student.tokenizer import train_tokenizer
    from star_rl.tools import ToolBox, schemas_of

    names = [own] if own else []
    shown, tools = schemas_of(schemas(names)), open_tools(names, None)
    other = next(iter(tools), "ItemCF")
    store, rng = make_store(folder / "store"), random.Random(seed)
    tasks = make_tasks(store, 256)

    def pieces(task: dict[str, Any]) -> list[str]:
        box = ToolBox(store, task["candidates"], "candidates", own=tools)
        answers = [
            box.call("UserCF", {"user_id": task["user_id"]}).text,
            box.call(other, {"item_ids": task["last"]}).text,
        ]
        ranking = [task["ground_truth"], *(i for i in task["candidates"] if i != task["ground_truth"])][:5]
        first, second = turns_of(task, ranking)
        first = first.replace("ItemCF", other)
        return [first + "<|im_end|>", tool_turn(answers), second + "<|im_end|>"]

    from jinja2 import Environment

    from star_rl.student.template import chat_template

    environment = Environment()
    environment.filters["tojson"] = json.dumps  # jinja2's own escapes HTML, transformers' does not
    template = environment.from_string(chat_template())
    texts = [
        template.render(messages=task["prompt"], tools=shown, add_generation_prompt=True) + "".join(pieces(task))
        for task in tasks
    ]
    model_folder = folder / "model"
    train_tokenizer(texts, ITEMS, model_folder, words=USERS, bpe_size=300, max_phrases=96, max_length=1024)
    shape = StudentShape(hidden_size=64, intermediate_size=128, heads=2, kv_heads=2, embed_std=0.05, init_std=0.08)
    make_student(model_folder, model_folder, shape)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    torch.manual_seed(seed)
    torch.set_num_threads(2)
    model = Qwen3ForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, betas=(0.9, 0.95))
    encoded = []
    for task in tasks:
        ids = render_prompt(tokenizer, task["prompt"], shown)
        labels = [-100] * len(ids)
        for piece, own in zip(pieces(task), (True, False, True), strict=True):
            tokens = tokenizer.encode(piece, add_special_tokens=False)
            ids, labels = ids + tokens, labels + (tokens if own else [-100] * len(tokens))
        encoded.append((ids, labels))
    for step in range(steps):
        batch = rng.sample(encoded, 16)
        width = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in batch])
        labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in batch])
        for group in optimizer.param_groups:
            group["lr"] = 8e-3 * min(1.0, (step + 1) / 10) * (1 - 0.9 * step / steps)
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(model_folder)
    return model_folder, folder / "store", tasks
