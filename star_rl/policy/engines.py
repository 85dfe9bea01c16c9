"""Engines behind the policy loop, in this process: vLLM, and plain transformers where vLLM is absent."""

from __future__ import annotations

import asyncio
import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from star_rl.integrations import on_cpu
from star_rl.options import Size, Whole, options
from star_rl.policy.loop import Budget, Generation

#: Set before vLLM is imported in a process without accelerator.
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
    max_model_len tokens of prompt and response together; None for the model's own
    max_num_seqs  sequences in one batch; further requests wait in the engine
    threads       threads of a CPU engine, None for the default; a tiny model is several times faster with one
    logprobs      whether to return the log-probabilities of the sampled tokens
    replicas      engines, each in a Ray actor with its own GPUs (vllm only); None: as many as fit the GPUs, one on a
                  CPU. A single engine lives in this process
    seed          of the engine, not of a request (vLLM's CPU build has none): equal samples need requests in equal
                  order
    extra         further arguments of vLLM's ``AsyncEngineArgs``
    """

    kind: Literal["auto", "vllm", "transformers"] = "auto"
    max_model_len: Size | None = None
    max_num_seqs: Size = 256
    threads: Size | None = 1
    logprobs: bool = False
    replicas: Size | None = None
    seed: Whole = 0
    extra: tuple[tuple[str, Any], ...] = ()


def within(budget: Budget, engine: Any) -> Budget:
    """Limit a budget's context to the engine's ``window`` (tokens, if it has one), so that a rollout that does not fit
    ends as too long and not as a failure of the engine."""
    known = [tokens for tokens in (budget.context_tokens, getattr(engine, "window", 0)) if tokens]
    return replace(budget, context_tokens=min(known, default=0))


class VllmEngine:
    """vLLM's asynchronous engine with prefix caching. ``window``: tokens of prompt and response that it holds."""

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
        turn, logprobs = last.outputs[0], None
        if turn.logprobs is not None:
            logprobs = [entry[token].logprob for entry, token in zip(turn.logprobs, turn.token_ids, strict=True)]
        return Generation(list(turn.token_ids), logprobs, "aborted" if turn.finish_reason == "abort" else "stop")

    async def reset_prefix_cache(self) -> None:
        """Clear the prefix cache, before a cold measurement."""
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
        self._waiting: list[_Request] = []
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
            wanted = _batch_key(self._waiting[0])
            alike = [request for request in self._waiting if _batch_key(request) == wanted]
            others = [request for request in self._waiting if _batch_key(request) != wanted]
            batch, self._waiting = alike[: self._limit], alike[self._limit :] + others
            try:
                results: list[Any] = await asyncio.to_thread(self._run, batch)
            except Exception as error:  # every waiting rollout gets it, none hangs
                results = [error] * len(batch)
            for (_, _, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _run(self, batch: list[_Request]) -> list[Generation]:
        torch, pad_left = self._torch, functools.partial(self._torch.nn.utils.rnn.pad_sequence, batch_first=True)
        prompts = [torch.tensor(prompt, device=self._device) for prompt, _, _ in batch]
        sampling = batch[0][1]
        stop, temperature = list(sampling.get("stop_token_ids") or ()), sampling.get("temperature", 1.0)
        pad = stop[0] if stop else 0
        ids = pad_left(prompts, padding_value=pad, padding_side="left")
        chosen: dict[str, Any] = {"do_sample": False}
        if temperature:
            chosen = {
                "do_sample": True,
                "temperature": temperature,
                "top_p": sampling.get("top_p", 1.0),
                "top_k": max(0, sampling.get("top_k", 0)),
            }
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=pad_left([torch.ones_like(prompt) for prompt in prompts], padding_side="left"),
                max_new_tokens=max(entry["max_tokens"] for _, entry, _ in batch),
                eos_token_id=stop or None,
                pad_token_id=pad,
                return_dict_in_generate=True,
                output_logits=True,
                **chosen,
            )
            scores = torch.stack(out.logits, dim=1).float() / (temperature or 1.0)
            picked = out.sequences[:, ids.shape[1] :]
            logprobs = torch.log_softmax(scores, -1).gather(-1, picked.unsqueeze(-1)).squeeze(-1)
        results = []
        for row, (_, entry, _) in enumerate(batch):
            tokens = picked[row].tolist()[: entry["max_tokens"]]
            end = next((place for place, token in enumerate(tokens) if token in stop), len(tokens) - 1)
            results.append(Generation(tokens[: end + 1], logprobs[row, : end + 1].tolist(), "stop"))
        return results

    def close(self) -> None:
        if self._worker is not None:
            self._worker.cancel()


#: Prompt, sampling parameters and the reply.
_Request = tuple[list[int], dict[str, Any], asyncio.Future[Generation]]


def _batch_key(request: _Request) -> tuple[Any, ...]:
    return tuple(request[1].get(name) for name in ("temperature", "top_p", "top_k"))
