"""What :mod:`benchmarks.rollout` runs the loops on: a run's prompts and store, and the engines they ask."""

from __future__ import annotations

import asyncio
import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import yaml


class World:
    """Prompts, tools and configuration of a run that has a student."""

    def __init__(self, run: Path, prompts: int, samples: int, student: str = "sft/final") -> None:
        from transformers import AutoTokenizer

        from star_rl.integrations.verl.recipe import compose
        from star_rl.pipeline.overlays import grpo_recipe

        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        self.model, self.path = run / student, run / "evidence" / "store"
        with contextlib.redirect_stderr(io.StringIO()):
            self.tokenizer = AutoTokenizer.from_pretrained(self.model)
        self.lens = {"lens": recipe["tools"]["lens"], "lens_top": recipe["tools"]["lens_top"]}
        loop = recipe["loop"]["budget"]
        self.budget = {name: value for name, value in loop.items() if name != "response_tokens"}
        tasks = {row["task_id"]: row for row in pq.read_table(run / "tasks" / "train.parquet").to_pylist()}
        chats = pq.read_table(run / "sft_set" / "sft.parquet", columns=["task_id", "messages"])[:prompts].to_pylist()
        self.chat = chats[0]["messages"]
        self.rows = [_row(tasks[chat["task_id"]], chat["messages"][:2]) for chat in chats for _ in range(samples)]
        self.config = compose(
            [
                f"actor_rollout_ref.rollout.prompt_length={grpo_recipe(recipe).verl['data']['max_prompt_length']}",
                f"actor_rollout_ref.rollout.response_length={loop['response_tokens']}",
                f"actor_rollout_ref.rollout.max_model_len={recipe['engine']['options']['max_model_len']}",
                "actor_rollout_ref.rollout.multi_turn.enable=true",
                "actor_rollout_ref.rollout.multi_turn.format=hermes",
                f"actor_rollout_ref.rollout.multi_turn.max_assistant_turns={loop['turns']}",
                "actor_rollout_ref.rollout.multi_turn.max_parallel_calls=8",
                "actor_rollout_ref.rollout.multi_turn.max_tool_response_length=100000",
                "reward.custom_reward_function.path=pkg://star_rl.rewards.star",
                "reward.custom_reward_function.name=compute_score",
            ]
        )

    def open(self) -> None:
        """Open the store as if for the first time: nothing that was decoded, encoded or rendered is kept."""
        from star_rl.evidence import EvidenceStore
        from star_rl.policy.agent_loop import _prompt_ids, open_store
        from star_rl.policy.tokens import tokens_of

        self.store = EvidenceStore.inspect(self.path)
        self.boxes: dict[str, Any] = {}
        open_store.cache_clear()
        tokens_of.cache_clear()
        _prompt_ids.cache_clear()
        self.origin = {"scenario": self.store.scenario, "fingerprint": self.store.fingerprint}
        open_store(str(self.path), **self.origin)

    def loop(self, name: str, server: Server) -> Any:
        """A loop as verl's worker makes one for every rollout (verl/experimental/agent_loop/agent_loop.py:684)."""
        from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
        from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
        from verl.utils.dataset.rl_dataset import RLHFDataset

        from star_rl.policy.agent_loop import StarAgentLoop

        shared: dict[str, Any] = {
            "trainer_config": DictConfigWrap(self.config),
            "server_manager": server,
            "tokenizer": self.tokenizer,
            "processor": None,
            "dataset_cls": RLHFDataset,
            "data_config": DictConfigWrap(self.config.data),
            "hf_model_type": "qwen3",
        }
        if name == "star_agent":
            return StarAgentLoop(**shared, store=str(self.path), **self.origin, **self.lens, budget=self.budget)
        return ToolAgentLoop(**shared, tools=ToolListWrap(self._tools()))

    def _tools(self) -> list[Any]:
        """Our look-up as tools of verl's kind; one set for all rollouts, as in verl's worker."""
        if not hasattr(self, "_verl_tools"):
            from verl.tools.base_tool import BaseTool
            from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

            from star_rl.tools import TOOL_SCHEMAS, ToolBox

            world = self

            class LookUp(BaseTool):
                async def create(self, instance_id: str | None = None, **kwargs: Any) -> tuple[str, Any]:
                    task = kwargs["create_kwargs"]
                    world.boxes.setdefault(task["task_id"], ToolBox(world.store, task["candidates"], **world.lens))
                    return task["task_id"], ToolResponse()

                async def execute(
                    self, instance_id: str, parameters: dict[str, Any], **_: Any
                ) -> tuple[Any, float, dict[str, Any]]:
                    return ToolResponse(text=world.boxes[instance_id].call(self.name, parameters).text), 0.0, {}

            with contextlib.redirect_stdout(io.StringIO()):  # BaseTool prints its schema
                self._verl_tools = [
                    LookUp({}, OpenAIFunctionToolSchema.model_validate(schema)) for schema in TOOL_SCHEMAS
                ]
        return self._verl_tools


def _row(task: dict[str, Any], prompt: Sequence[dict[str, str]]) -> dict[str, Any]:
    own = {"create_kwargs": {"task_id": task["task_id"], "candidates": task["candidates"]}}
    return {
        "raw_prompt": list(prompt),
        "data_source": task["source"],
        "reward_model": {"style": "rule", "ground_truth": task["ground_truth"]},
        "extra_info": {"task_id": task["task_id"], "candidates": np.array(task["candidates"], dtype=object)},
        "tools_kwargs": {"UserCF": own, "ItemCF": own},
    }


class Server:
    """In place of verl's server client: the same call for both loops, timed."""

    def __init__(self, engine: Any, config: Any, end: int) -> None:
        from verl.workers.rollout.replica import TokenOutput

        self.made = TokenOutput
        rollout = config.actor_rollout_ref.rollout
        self.engine, self.end = engine, end
        self.response, self.context = rollout.response_length, rollout.max_model_len
        self.clear()

    def clear(self) -> None:
        self.seconds: dict[str, float] = {}
        self.ended: dict[str, tuple[float, float]] = {}
        self.due: dict[str, float] = {}
        self.between: list[float] = []
        self.between_cpu: list[float] = []
        self.since_due: list[float] = []
        self.parts: Parts | None = None

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> Any:
        """As verl's vLLM server reads its parameters (verl/workers/rollout/vllm_rollout/vllm_async_server.py:585)."""
        asked = time.perf_counter()
        if request_id in self.ended:
            self.between.append(asked - self.ended[request_id][0])
            self.between_cpu.append(time.thread_time() - self.ended[request_id][1])
            if request_id in self.due:
                self.since_due.append(asked - self.due[request_id])
            if self.parts:
                self.parts.turn_over(self.between_cpu[-1])
        chosen = {name: value for name, value in sampling_params.items() if name != "logprobs"}
        room = min(chosen.get("max_tokens", self.response), self.context - len(prompt_ids))
        chosen.update(max_tokens=max(1, room), stop_token_ids=[self.end])
        said = await self.engine.generate(prompt_ids, chosen, request_id)
        if isinstance(self.engine, Paced) and self.engine.pace:
            self.due[request_id] = self.engine.due[request_id]
        output = self.made(
            token_ids=list(said.token_ids),
            log_probs=None if said.logprobs is None else list(said.logprobs),
            stop_reason="completed",
            extra_fields={"global_steps": 1, "min_global_steps": 1, "max_global_steps": 1},
        )
        now = time.perf_counter()
        self.seconds[request_id] = self.seconds.get(request_id, 0.0) + now - asked
        if self.parts:
            self.parts.now.clear()
        self.ended[request_id] = now, time.thread_time()
        return output


class Scripted:
    """In vLLM's place with ``--quick``, whose student is not trained: the turns of one chat, whatever is asked."""

    def __init__(self, world: World, end: int) -> None:
        said = [message["content"] for message in world.chat if message["role"] == "assistant"]
        self.turns = [[*world.tokenizer.encode(text, add_special_tokens=False), end] for text in said]
        self.end = end

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Any:
        from star_rl.policy.engines import Generation

        turn = self.turns[min(prompt_ids.count(self.end) // 2, len(self.turns)) - 1]  # two messages end before each
        return Generation(turn, [0.0] * len(turn), "stop")


class Recorder:
    """An engine that keeps what it said, by what it was asked."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.said: dict[tuple[int, ...], Any] = {}

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Any:
        said = await self.engine.generate(prompt_ids, sampling_params, request_id)
        self.said[tuple(prompt_ids)] = said
        return said


class Paced:
    """What was recorded, a token every ``pace`` seconds; all requests move on the same clock."""

    def __init__(self, said: dict[tuple[int, ...], Any], pace: float) -> None:
        self.said, self.pace = said, pace
        self.due: dict[str, float] = {}

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Any:
        said = self.said[tuple(prompt_ids)]
        if self.pace:
            now = time.monotonic()
            self.due[request_id] = (now // self.pace + 1 + len(said.token_ids)) * self.pace
            await asyncio.sleep(self.due[request_id] - now)
        else:
            await asyncio.sleep(0)
        return said


class Parts:
    """Where the CPU time of our loop's tool turns goes; in rounds of its own, for its clocks take time too."""

    def __init__(self) -> None:
        self.now: dict[str, float] = {}
        self.turns: list[dict[str, float]] = []

    def turn_over(self, seconds: float) -> None:
        self.turns.append({**self.now, "rest": seconds - sum(self.now.values()), "all": seconds})

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.now[name] = self.now.get(name, 0.0) + time.thread_time() - began

        return measured

    @contextlib.contextmanager
    def watching(self, tokenizer: Any) -> Iterator[None]:
        """While this lasts, the parts of every tool turn are timed."""
        from star_rl.policy import loop
        from star_rl.policy.tokens import tokens_of
        from star_rl.tools import ToolBox

        tokens = tokens_of(tokenizer)
        with contextlib.ExitStack() as stack:
            for holder, name, part in (
                (tokens, "decode", "decode"),
                (loop, "tool_calls", "parse"),
                (ToolBox, "call", "look-up"),
                (tokens, "encode", "encode"),
            ):
                stack.enter_context(mock.patch.object(holder, name, self.timed(part, getattr(holder, name))))
            yield

    def summary(self) -> dict[str, dict[str, float]]:
        """Microseconds by part: the median turn, and the mean of the slowest hundredth."""
        slowest = sorted(self.turns, key=lambda turn: turn["all"])[-max(1, len(self.turns) // 100) :]
        return {
            part: {
                "median": statistics.median(turn.get(part, 0.0) for turn in self.turns) * 1e6,
                "slowest": statistics.fmean(turn.get(part, 0.0) for turn in slowest) * 1e6,
            }
            for part in ("decode", "parse", "look-up", "encode", "rest", "all")
        }
