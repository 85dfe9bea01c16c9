"""Our agent loop beside verl's own tool loop: the same prompts, the same tool answers, the same engine, in one run.

    python -m benchmarks.rollout --out .bench/rollout.json

Both loops are built as verl's workers build them (one object a rollout) and take turns on one server. Two engines:

vllm    vLLM on the student of a small run, greedily, its prefix cache emptied before every turn: tokens a second.
paced   what vLLM said, played back a token every ``--pace`` ms to all rollouts at once, as a GPU would in lockstep;
        then with no pause at all, so that what is left is the loops' own work.

A rollout's own share is its wall time less the engine's and the tools'. A tool turn is timed from the engine's last
token to the next request for tokens: parse, look-up in the sealed store, chat form, token ids; the samples of a prompt
end their turns at the same moment, and one that waits for another has that wait in its time. Ours scores its rollouts
inside the loop, verl's leaves that to another worker; ours is timed with it.

Goals: at least 95 % of verl's tokens a second; own share under 2 %; tool turn under 1 ms at p99 with 256 in flight.
Where other work holds the cores, read the CPU figures: they leave out the time in which this process did not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from benchmarks.harness import CACHE, ROOT, arguments, machine, table, two_cores, write_json

#: The quickstart, smaller: a student that calls its tools and ends its turns is all that is needed.
PREPARE = ("out=.bench/runs", "name=rollout", "source.options.users=1600", "sft.overrides={max_steps: 240}")
LOOPS = ("star_agent", "tool_agent")
END = "<|im_end|>"


class World:
    """Prompts, tools and configuration of a run that has a student."""

    def __init__(self, run: Path, prompts: int, samples: int) -> None:
        from transformers import AutoTokenizer

        from star_rl.integrations.verl.recipe import compose

        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        self.model, self.path = run / "sft" / "final", run / "evidence" / "store"
        with contextlib.redirect_stderr(io.StringIO()):
            self.tokenizer = AutoTokenizer.from_pretrained(self.model)
        self.lens = {"lens": recipe["tools"]["lens"], "lens_top": recipe["tools"]["lens_top"]}
        loop = recipe["loop"]["budget"]
        self.budget = {name: value for name, value in loop.items() if name != "response_tokens"}
        tasks = {row["task_id"]: row for row in pq.read_table(run / "tasks" / "train.parquet").to_pylist()}
        chats = pq.read_table(run / "sft_set" / "sft.parquet", columns=["task_id", "messages"])[:prompts].to_pylist()
        self.rows = [_row(tasks[chat["task_id"]], chat["messages"][:2]) for chat in chats for _ in range(samples)]
        self.config = compose(
            [
                f"actor_rollout_ref.rollout.prompt_length={recipe['loop']['prompt_tokens']}",
                f"actor_rollout_ref.rollout.response_length={loop['response_tokens']}",
                f"actor_rollout_ref.rollout.max_model_len={recipe['engine']['options']['max_model_len']}",
                "actor_rollout_ref.rollout.multi_turn.enable=true",
                "actor_rollout_ref.rollout.multi_turn.format=hermes",
                f"actor_rollout_ref.rollout.multi_turn.max_assistant_turns={loop['turns']}",
                "actor_rollout_ref.rollout.multi_turn.max_parallel_calls=8",
                "actor_rollout_ref.rollout.multi_turn.max_tool_response_length=100000",
                "reward.custom_reward_function.path=pkg://rewards.star",
                "reward.custom_reward_function.name=compute_score",
            ]
        )

    def open(self) -> None:
        """Open the store as if for the first time: nothing that was decoded is kept."""
        from star_rl.evidence import EvidenceStore
        from star_rl.policy.agent_loop import open_store

        self.store = EvidenceStore.open(self.path)
        self.boxes: dict[str, Any] = {}
        open_store.cache_clear()
        open_store(str(self.path), "star_rl.evidence:EvidenceStore.open")

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
            return StarAgentLoop(**shared, store=str(self.path), **self.lens, budget=self.budget)
        return ToolAgentLoop(**shared, tools=ToolListWrap(self._tools()))

    def _tools(self) -> list[Any]:
        """Our look-up as tools of verl's kind; one set for all rollouts, as in verl's worker."""
        if not hasattr(self, "_verl_tools"):
            from verl.tools.base_tool import BaseTool
            from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

            from star_rl.policy.tools import TOOL_SCHEMAS, ToolBox

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
        rollout = config.actor_rollout_ref.rollout
        self.engine, self.end = engine, end
        self.response, self.context = rollout.response_length, rollout.max_model_len
        self.clear()

    def clear(self) -> None:
        self.seconds: dict[str, float] = {}
        self.ended: dict[str, tuple[float, float]] = {}
        self.between: list[float] = []
        self.between_cpu: list[float] = []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> Any:
        """As verl's vLLM server reads its parameters (verl/workers/rollout/vllm_rollout/vllm_async_server.py:585)."""
        from verl.workers.rollout.replica import TokenOutput

        asked = time.perf_counter()
        if request_id in self.ended:
            self.between.append(asked - self.ended[request_id][0])
            self.between_cpu.append(time.thread_time() - self.ended[request_id][1])
        chosen = {name: value for name, value in sampling_params.items() if name != "logprobs"}
        room = min(chosen.get("max_tokens", self.response), self.context - len(prompt_ids))
        chosen.update(max_tokens=max(1, room), stop_token_ids=[self.end])
        said = await self.engine.generate(prompt_ids, chosen, request_id)
        output = TokenOutput(
            token_ids=list(said.token_ids),
            log_probs=None if said.logprobs is None else list(said.logprobs),
            stop_reason="completed",
            extra_fields={"global_steps": 1, "min_global_steps": 1, "max_global_steps": 1},
        )
        now = time.perf_counter()
        self.seconds[request_id] = self.seconds.get(request_id, 0.0) + now - asked
        self.ended[request_id] = now, time.thread_time()
        return output


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

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Any:
        said = self.said[tuple(prompt_ids)]
        if self.pace:
            now = time.monotonic()
            await asyncio.sleep((now // self.pace + 1 + len(said.token_ids)) * self.pace - now)
        else:
            await asyncio.sleep(0)
        return said


async def step(world: World, name: str, server: Server) -> dict[str, Any]:
    """All rollouts of a step at once through one loop."""
    server.clear()
    world.open()
    gc.collect()
    walls: list[float] = []

    async def one(row: dict[str, Any]) -> Any:
        loop, began = world.loop(name, server), time.perf_counter()
        output = await loop.run({"temperature": 0.0, "top_p": 1.0, "top_k": -1, "logprobs": True}, **row)
        walls.append(time.perf_counter() - began)
        return output

    cpu, began = time.process_time(), time.perf_counter()
    outputs = await asyncio.gather(*(one(row) for row in world.rows))
    seconds = time.perf_counter() - began
    tools = sum(output.metrics.tool_calls for output in outputs)
    tokens = sum(sum(output.response_mask) for output in outputs)
    return {
        "seconds": seconds,
        "cpu": time.process_time() - cpu,
        "rollouts": len(outputs),
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "own_share": 1.0 - (sum(server.seconds.values()) + tools) / sum(walls),
        "tool_turns": len(server.between),
        "tool_turn_ms": {
            **{f"p{q}": float(np.percentile(server.between, q)) * 1e3 for q in (50, 99, 99.9)},
            "cpu_p99": float(np.percentile(server.between_cpu, 99)) * 1e3,
        },
        "responses": [list(output.response_ids) for output in outputs],
        "masks": [list(output.response_mask) for output in outputs],
    }


async def in_turns(world: World, engine: Any, runs: int, label: str, empty: Any = None) -> dict[str, Any]:
    """``runs`` rounds of both loops, the order turned round every time; one round before is not counted.

    Every turn opens the store anew, so that each key is read, checked and decoded for the first time once more.
    """
    server = Server(engine, world.config, world.tokenizer.convert_tokens_to_ids(END))
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in LOOPS}
    for number in range(runs + 1):
        for name in LOOPS if number % 2 else reversed(LOOPS):
            if empty is not None:
                await empty()
            done = await step(world, name, server)
            if number:
                rounds[name].append(done)
                print(f"  {label} {number}/{runs} {name}: {done['seconds']:.3f} s", file=sys.stderr, flush=True)
    return {"rounds": rounds, "same": _same(rounds)}


def _same(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Share of rollouts with the same token ids and the same mask in both loops, over all rounds."""
    pairs = [
        (mine == theirs, my_mask == their_mask)
        for ours, verls in zip(*(rounds[name] for name in LOOPS), strict=True)
        for mine, theirs, my_mask, their_mask in zip(
            ours["responses"], verls["responses"], ours["masks"], verls["masks"], strict=True
        )
    ]
    return {"ids": sum(ids for ids, _ in pairs) / len(pairs), "mask": sum(mask for _, mask in pairs) / len(pairs)}


def _medians(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    names = ("seconds", "cpu", "tokens", "tokens_per_second", "own_share")
    result = {}
    for loop, done in rounds.items():
        result[loop] = {name: statistics.median(entry[name] for entry in done) for name in names}
        result[loop].update(
            {q: statistics.median(entry["tool_turn_ms"][q] for entry in done) for q in done[0]["tool_turn_ms"]}
        )
        result[loop]["rollout_ms"] = result[loop]["cpu"] * 1e3 / done[0]["rollouts"]
    return result


async def measure(world: World, runs: int, pace: float, seqs: int) -> dict[str, Any]:
    from star_rl.policy.engines import EngineOptions, VllmEngine

    context = int(world.config.actor_rollout_ref.rollout.max_model_len)
    options = EngineOptions("vllm", max_model_len=context, max_num_seqs=seqs, logprobs=True)
    report: dict[str, Any] = {}
    with contextlib.closing(VllmEngine(world.model, options)) as engine:
        recorder = Recorder(engine)
        report["vllm"] = await in_turns(world, recorder, runs, "vllm", engine.reset_prefix_cache)
    said = recorder.said
    report["paced"] = await in_turns(world, Paced(said, pace), runs, f"paced {pace * 1e3:g} ms")
    report["unpaced"] = await in_turns(world, Paced(said, 0.0), runs, "unpaced")
    return report


def prepare(run: Path | None) -> Path:
    """A run with a student: the one given, else one made once in ``.bench``."""
    if run is not None:
        return run
    command = [str(Path(sys.executable).with_name("star-rl")), "run", "recipes/quickstart.yaml", *PREPARE]
    subprocess.run([*command, "--until", "sft"], cwd=ROOT, check=True)
    return CACHE / "runs" / "rollout"


def show(report: dict[str, Any]) -> None:
    """Print the tables and what the goals come to."""
    for name in ("vllm", "paced", "unpaced"):
        part = report[name]
        rows = [
            [
                loop,
                row["tokens_per_second"],
                row["seconds"],
                row["rollout_ms"],
                100 * row["own_share"],
                row["p50"],
                row["p99"],
                row["p99.9"],
                row["cpu_p99"],
            ]
            for loop, row in part["medians"].items()
        ]
        print(f"\n{name}: {part['same']['ids']:.1%} of the responses are the same in both, token for token")
        head = [
            "loop",
            "tokens/s",
            "s",
            "CPU ms a rollout",
            "own share %",
            "tool turn ms p50",
            "p99",
            "p99.9",
            "CPU p99",
        ]
        print(table(head, rows))
    print("\n" + table(["goal", "wanted", "measured"], [[*row.values()] for row in report["goals"]]))


def goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Goal, bound, figure."""
    ours = {name: report[name]["medians"]["star_agent"] for name in ("vllm", "paced", "unpaced")}
    verls = {name: report[name]["medians"]["tool_agent"] for name in ("vllm", "paced", "unpaced")}
    rows = [
        {
            "goal": f"tokens/s against verl's loop, {name}",
            "wanted": ">= 0.95",
            "measured": round(ours[name]["tokens_per_second"] / verls[name]["tokens_per_second"], 3),
        }
        for name in ("vllm", "paced")
    ]
    rows += [
        {"goal": f"own share, {name}", "wanted": "< 2 %", "measured": f"{100 * ours[name]['own_share']:.2f} %"}
        for name in ("vllm", "paced")
    ]
    # All that the loops of a step do, one after the other, held against the wall time of generation alone.
    own = ours["unpaced"]["cpu"] / ours["vllm"]["seconds"]
    rows.append(
        {"goal": "own work of a step / its generation on vLLM", "wanted": "< 2 %", "measured": f"{100 * own:.2f} %"}
    )
    flight = report["in_flight"]
    rows.append(
        {
            "goal": f"tool turn p99, {flight} in flight",
            "wanted": "< 1 ms",
            "measured": f"{ours['paced']['p99']:.3f} ms ({ours['paced']['cpu_p99']:.3f} ms of CPU)",
        }
    )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--run", type=Path, help="a run with an SFT student (default: one made in .bench/runs)")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--pace", type=float, default=10.0, help="ms a token of the paced engine (default 10)")
    options = parser.parse_args()
    two_cores(2)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    world = World(prepare(options.run), options.prompts, options.samples)
    report = asyncio.run(measure(world, options.runs, options.pace / 1e3, options.prompts * options.samples))
    for part in report.values():
        part["medians"] = _medians(part["rounds"])
        for rounds in part["rounds"].values():
            for entry in rounds:
                del entry["responses"], entry["masks"]
    report["in_flight"] = len(world.rows)
    report["goals"] = goals(report)
    report["machine"] = machine(("verl", "vllm", "transformers", "star-rl"))
    show(report)
    write_json(options.out or CACHE / "rollout.json", report)


if __name__ == "__main__":
    main()
