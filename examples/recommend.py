"""Recommend with a trained student, its tool calls included.

    python examples/recommend.py                                         models/synthetic, by transformers
    python examples/recommend.py --run runs/quickstart --model student   a student of one's own (star-rl export)
    python examples/recommend.py --url http://127.0.0.1:8000             the model that `vllm serve` has at this address

A request ends where the model calls a tool. The policy loop looks up the answer, appends it and continues: as in
training and in evaluation. Token ids go in and out, so no text is tokenized twice.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from star_rl import Budget, Generation, Run, load_recipe, read_response, render_prompt, rollout, run_recipe


class Local:
    """An engine of the policy loop: the model in this process, by transformers."""

    def __init__(self, model: str) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(model)

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Generation:
        """Continue ``prompt_ids`` greedily to the end of the turn."""
        given = torch.tensor([prompt_ids])
        made = self._model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            temperature=None,
            top_p=None,
            max_new_tokens=sampling_params["max_tokens"],
            eos_token_id=sampling_params["stop_token_ids"],
        )
        return Generation(made[0, len(prompt_ids) :].tolist())


class Served:
    """An engine of the policy loop: a server with the completions API of vLLM."""

    def __init__(self, url: str, model: str) -> None:
        self._client, self._model = httpx.AsyncClient(base_url=url, timeout=600), model

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Generation:
        """Ask the server to continue ``prompt_ids``."""
        body = {"model": self._model, "prompt": prompt_ids, "return_token_ids": True, **sampling_params}
        answer = await self._client.post("/v1/completions", json=body)
        answer.raise_for_status()
        return Generation(answer.json()["choices"][0]["token_ids"])


async def recommend(run: Run, engine: Local | Served, model: str, tasks: int) -> list[tuple[str | None, ...]]:
    """Print the dialogues of the first test tasks; return their rankings, as item ids."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rankings = []
    for task in run.tasks("test")[:tasks]:
        case = run.case(task)
        prompt = render_prompt(tokenizer, run.messages(task), run.tools)
        toolbox, budget = run.toolbox(case), Budget(**run.config["loop"]["budget"])
        done = await rollout(engine, tokenizer, prompt, toolbox, budget, {"temperature": 0.0})
        read = read_response(done.model_text, task.ground_truth)
        print("\n\n".join(message["content"] for message in done.messages), "\n")
        print(f"ranked: {', '.join(map(str, read.ranks))}; the user chose {task.ground_truth}\n")
        rankings.append(tuple(read.ranks))
    return rankings


def main(arguments: list[str] | None = None) -> list[tuple[str | None, ...]]:
    """Open the run (made as far as the evidence store, if it is the default one) and recommend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="folder of a run; default: the world of models/synthetic, made in seconds")
    parser.add_argument("--model", default="models/synthetic", help="folder of the student")
    parser.add_argument("--url", help="server; default: the model runs in this process")
    parser.add_argument("--tasks", type=int, default=1, help="test tasks to answer")
    parser.add_argument("--out", default="runs", help="folder of runs")
    given = parser.parse_args(arguments)
    if given.run:
        run = Run.open(Path(given.run))
    else:
        options = load_recipe("learn-synthetic", [f"out={given.out}"])
        run = run_recipe(options, ["tables", "tasks", "neighbours", "evidence", "summaries"])
    engine = Served(given.url, given.model) if given.url else Local(given.model)
    return asyncio.run(recommend(run, engine, given.model, given.tasks))


if __name__ == "__main__":
    main()
