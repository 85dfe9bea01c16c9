"""Engines behind the policy loop, in this process: vLLM, and plain transformers where vLLM is absent."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from star_rl.integrations import on_cpu
from star_rl.options import Size, Whole, options
from star_rl.policy.loop import Budget, Generation

Kind = Literal["auto", "vllm", "transformers"]

#: Set before vLLM is imported in a process without accelerator; what each does stands in the GRPO launcher's
#: environment.
CPU_VARIABLES = {
    "VLLM_PLUGINS": "none",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@options
class EngineOptions:
    """How an engine is opened.

    kind          vllm, transformers, or auto: vllm where it is installed
    max_model_len tokens of prompt and response together, None for the model's own
    max_num_seqs  sequences in one batch; further requests wait in the engine
    threads       threads of a CPU engine, None for the default; on a busy machine a tiny model is several times
                  faster with one, because threads that spin for each other cost more than the arithmetic
    logprobs      whether to return the log-probabilities of the sampled tokens
    replicas      engines side by side, each in a Ray actor with GPUs of its own (vllm only); None: as many as there are
                  GPUs for, one on a CPU. A single one lives in this process
    seed          of the engine, not of a request (vLLM's CPU build has none): the same samples come out only if
                  requests arrive in the same order
    extra         further arguments of vLLM's ``AsyncEngineArgs``
    """

    kind: Kind = "auto"
    max_model_len: Size | None = None
    max_num_seqs: Size = 256
    threads: Size | None = 1
    logprobs: bool = False
    replicas: Size | None = None
    seed: Whole = 0
    extra: tuple[tuple[str, Any], ...] = ()


def within(budget: Budget, engine: Any) -> Budget:
    """Limit a budget's context to the engine's ``window`` (tokens, if it has one).

    A rollout that does not fit then ends as too long; the engine would refuse it, which counts as its failure.
    """
    known = [tokens for tokens in (budget.context_tokens, getattr(engine, "window", 0)) if tokens]
    return replace(budget, context_tokens=min(known, default=0))


class VllmEngine:
    """vLLM's asynchronous engine with prefix caching: samples share their prompt, turns share what came before.
    ``window``: tokens of prompt and response that it holds."""

    def __init__(self, model: str | Path, options: EngineOptions) -> None:
        arguments: dict[str, Any] = {
            "model": str(model),
            "max_num_seqs": options.max_num_seqs,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "seed": options.seed,
            "generation_config": "vllm",  # sampling is the caller's, not the checkpoint's
        }
        if options.max_model_len:
            arguments["max_model_len"] = options.max_model_len
        if not has_accelerator():
            for name, value in CPU_VARIABLES.items():
                os.environ.setdefault(name, value)
            if options.threads:
                os.environ["OMP_NUM_THREADS"] = str(options.threads)
            arguments.update(dtype="float32", enforce_eager=True, distributed_executor_backend="uni")
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**{**arguments, **dict(options.extra)}))
        self.window = int(self._engine.model_config.max_model_len)
        self._logprobs = options.logprobs

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Generation:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            **sampling_params,
            logprobs=0 if self._logprobs else None,
            detokenize=False,  # the loop decodes whole turns itself
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        last: Any = None
        request = f"{request_id}-{uuid4().hex[:8]}"
        async for output in self._engine.generate({"prompt_token_ids": prompt_ids}, sampling, request):
            last = output
        if last is None or not last.outputs:
            return Generation((), None, "aborted")
        said = last.outputs[0]
        logprobs = None
        if said.logprobs is not None:
            logprobs = [entry[token].logprob for entry, token in zip(said.logprobs, said.token_ids, strict=True)]
        return Generation(list(said.token_ids), logprobs, "aborted" if said.finish_reason == "abort" else "stop")

    async def reset_prefix_cache(self) -> None:
        """Clear the prefix cache, after a change of weights or before a cold measurement."""
        await self._engine.reset_prefix_cache()

    def close(self) -> None:
        self._engine.shutdown()


def has_accelerator() -> bool:
    if on_cpu():
        return False
    import torch

    return torch.cuda.is_available()


class TransformersEngine:
    """Plain ``model.generate`` on batches of waiting requests. For tests and machines without vLLM; not fast."""

    def __init__(self, model: str | Path, options: EngineOptions) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        if options.threads:
            torch.set_num_threads(options.threads)
        torch.manual_seed(options.seed)
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        self._model = AutoModelForCausalLM.from_pretrained(str(model), dtype=dtype).to(self._device).eval()
        self._limit = options.max_num_seqs
        self._waiting: list[tuple[list[int], dict[str, Any], asyncio.Future[Generation]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Generation:
        future: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt_ids, sampling_params, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(0.01)  # let a batch gather
            wanted = _batch_key(self._waiting[0][1])
            batch = [entry for entry in self._waiting if _batch_key(entry[1]) == wanted][: self._limit]
            taken = {id(entry) for entry in batch}
            self._waiting = [entry for entry in self._waiting if id(entry) not in taken]
            try:
                results = await asyncio.to_thread(
                    self._run, [entry[0] for entry in batch], [entry[1] for entry in batch]
                )
            except Exception as error:  # every waiting rollout gets it, none hangs
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, _, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def _run(self, prompts: list[list[int]], sampling: list[dict[str, Any]]) -> list[Generation]:
        torch = self._torch
        width, stop = max(map(len, prompts)), list(sampling[0].get("stop_token_ids") or ())
        pad = stop[0] if stop else 0
        ids = torch.full((len(prompts), width), pad, device=self._device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        temperature = sampling[0].get("temperature", 1.0)
        top_k = sampling[0].get("top_k", 0)
        chosen: dict[str, Any] = {"do_sample": False}
        if temperature:
            chosen = {
                "do_sample": True,
                "temperature": temperature,
                "top_p": sampling[0].get("top_p", 1.0),
                "top_k": max(0, top_k),
            }
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max(entry["max_tokens"] for entry in sampling),
                eos_token_id=stop or None,
                pad_token_id=pad,
                return_dict_in_generate=True,
                output_logits=True,
                **chosen,
            )
            scores = torch.stack(out.logits, dim=1).float() / (temperature or 1.0)
            picked = out.sequences[:, width:]
            logprobs = torch.log_softmax(scores, -1).gather(-1, picked.unsqueeze(-1)).squeeze(-1)
        results = []
        for row, entry in enumerate(sampling):
            tokens = picked[row].tolist()[: entry["max_tokens"]]
            end = next((place for place, token in enumerate(tokens) if token in stop), len(tokens) - 1)
            results.append(Generation(tokens[: end + 1], logprobs[row, : end + 1].tolist(), "stop"))
        return results

    def close(self) -> None:
        if self._worker is not None:
            self._worker.cancel()


def _batch_key(sampling: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sampling.get(name) for name in ("temperature", "top_p", "top_k"))
