"""What ``star-rl plan`` says a training step needs, beside what it takes here on the CPU.

    python -m benchmarks.plan --out .bench/plan.json

One step of a Qwen3 of about 10 and 60 M parameters in bf16: forward, backward through transformers' own loss, update of
32-bit weights and two moments, with gradient checkpointing and without. The growth of the process's peak resident
memory is held against the plan of the same step on one GPU, less what CUDA takes there.

The same two models in a vLLM CPU engine: what its weights take, how many tokens vLLM's own count of blocks puts into a
KV cache of a given size, and the growth of resident memory at the peak of a full batch.

The time of a step with checkpointing, in 32 bits: how many times longer it takes with the larger model, beside what
the FLOPs of the plan say. The ratio must lie within ``PACE``, for a CPU is not equally fast with both.

Each measurement is a process of its own. The ratio measured / planned must lie within ``BAND``: a plan that promises
less than is needed is worse than one that asks for more, so the band is not even.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import CACHE, arguments, child, machine, read_options, table, two_cores, write_json
from star_rl.plan import GIB, Shape, memory
from star_rl.plan.time import flops

#: Measured / planned.
BAND = (0.75, 1.10)
#: Measured / planned ratio of the times of two models.
PACE = (0.6, 1.5)
MIB = 2**20
#: vLLM's batch and the length of its rows, tokens, and bytes of its KV cache.
BATCH, ROW, CACHED = 4096, 1024, GIB
#: name -> (shape, rows, tokens a row).
SIZES: dict[str, tuple[Shape, int, int]] = {
    "10M": (Shape("10M", 256, 8, 4, 2, 64, 1024, 8192, True), 1, 1024),
    "60M": (Shape("60M", 512, 14, 8, 4, 64, 1536, 32768, True), 1, 512),
}


def config_of(shape: Shape) -> dict[str, Any]:
    """The shape as transformers' ``Qwen3Config`` takes it."""
    return {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def planned(shape: Shape, rows: int, tokens: int, checkpointing: bool) -> dict[str, float]:
    """Parts of the plan's peak, bytes, without CUDA's own."""
    from star_rl.plan.memory import plan_sft

    config = {"per_device_train_batch_size": rows, "max_length": tokens, "gradient_checkpointing": checkpointing}
    (phase,) = plan_sft(config, shape, 1, 80 * GIB).phases
    return {name: size for name, size in phase.parts.items() if size and not name.startswith("CUDA")}


def resident(name: str) -> int:
    """``VmRSS``, ``RssAnon`` or ``VmHWM`` of this process, bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def step(shape: Shape, rows: int, tokens: int, checkpointing: bool) -> dict[str, float]:
    """Peak growth of one training step, bytes."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(2)

    def train(shape: Shape, rows: int, tokens: int) -> None:
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen3ForCausalLM(Qwen3Config(**config_of(shape), attn_implementation="sdpa", use_cache=False))
        torch.set_default_dtype(torch.float32)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        masters = [parameter.detach().float() for parameter in model.parameters()]
        moments = [[torch.ones_like(master) for master in masters] for _ in range(2)]  # ones: zeros would stay unmapped
        ids = torch.randint(0, shape.vocab, (rows, tokens))
        model(input_ids=ids, labels=ids).loss.backward()
        for parameter, master, first, second in zip(model.parameters(), masters, *moments, strict=True):
            assert parameter.grad is not None
            first.lerp_(parameter.grad.float(), 0.1)
            second.mul_(0.95)
            parameter.data.copy_(master.sub_(first, alpha=1e-4))

    train(Shape("warm", 64, 1, 2, 1, 32, 64, 128, True), 1, 16)  # libraries and threads take what they take
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): the peak starts anew
    train(shape, rows, tokens)
    return {"measured": float(resident("VmHWM") - before)}


def pace(shape: Shape, rows: int, tokens: int) -> dict[str, float]:
    """Processor seconds of the fastest of three forward and backward passes with checkpointing."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(1)  # and processor time: other processes do not count
    model = Qwen3ForCausalLM(Qwen3Config(**config_of(shape), attn_implementation="eager", use_cache=False)).train()
    model.gradient_checkpointing_enable()
    ids = torch.randint(0, shape.vocab, (rows, tokens))
    took = []
    for _ in range(3):
        start = time.process_time()
        model(input_ids=ids, labels=ids).loss.backward()
        took.append(time.process_time() - start)
    return {"seconds": min(took)}


def paces() -> dict[str, Any]:
    """How many times longer a step of the larger model takes, planned and measured."""
    kind = {"causal": False, "train": True, "checkpointing": True, "adapters": False}
    said = [flops(shape, tokens, **kind).total * rows * tokens for shape, rows, tokens in SIZES.values()]
    found = [child(__file__, "pace", case)["seconds"] for case in SIZES]
    planned, measured = said[1] / said[0], found[1] / found[0]
    return {"planned": round(planned, 2), "measured": round(measured, 2), "ratio": round(measured / planned, 3)}


def serve(shape: Shape) -> dict[str, float]:
    """Bytes that a vLLM CPU engine of the shape takes: resident with its weights, more at the peak of one full batch;
    and the tokens that its KV cache of :data:`CACHED` bytes holds."""
    import tempfile

    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from star_rl.policy.engines import CPU_VARIABLES

    os.environ.update(CPU_VARIABLES, OMP_NUM_THREADS="2", VLLM_LOGGING_LEVEL="ERROR")
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(CACHED // GIB)
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        torch.set_default_dtype(torch.bfloat16)
        Qwen3ForCausalLM(Qwen3Config(**config_of(shape))).save_pretrained(folder)
        torch.set_default_dtype(torch.float32)
        gc.collect()
        engine = LLM(
            folder,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=2048,
            max_num_seqs=8,
            max_num_batched_tokens=BATCH,
            enable_prefix_caching=False,
            enforce_eager=True,
            distributed_executor_backend="uni",
        )

        def prompts(rows: int, tokens: int, first: int) -> list[dict[str, list[int]]]:
            return [{"prompt_token_ids": [(first + row + at) % 997 + 1 for at in range(tokens)]} for row in range(rows)]

        one = SamplingParams(max_tokens=1, temperature=1.0, detokenize=False)
        cache = engine.llm_engine.vllm_config.cache_config
        engine.generate(prompts(1, 8, 0), one, use_tqdm=False)
        gc.collect()
        weights, before = resident("RssAnon"), resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        engine.generate(prompts(BATCH // ROW, ROW, 7), one, use_tqdm=False)
        return {
            "resident": float(weights),
            "batch": float(resident("VmHWM") - before),
            "tokens": float(cache.num_gpu_blocks * cache.block_size),
        }


def serving() -> list[dict[str, Any]]:
    """vLLM's weights, KV cache and batch, planned and measured.

    Of the weights the difference of two models counts, which leaves out what vLLM and its libraries take. On a CPU
    vLLM packs the weight of a tied embedding once for each of its two modules, beside the weight itself
    (``remove_weight=False`` in vllm/model_executor/layers/vocab_parallel_embedding.py). A GPU has none of these
    copies; here the plan is given them.
    """
    found = {}
    for case in SIZES:
        print(f"  {case} vllm", file=sys.stderr, flush=True)
        found[case] = child(__file__, "vllm", case)
    small, large = (SIZES[case][0] for case in SIZES)
    weights = [2.0 * (shape.parameters + 2 * shape.embedding) for shape in (small, large)]
    rows = [("weights, 60M less 10M", weights[1] - weights[0])]
    measured = [found["60M"]["resident"] - found["10M"]["resident"]]
    for case, (shape, _, _) in SIZES.items():
        rows.append((f"KV cache, {case}", shape.kv_bytes() * found[case]["tokens"]))
        measured.append(CACHED)
        rows.append((f"batch, {case}", memory.serving_bytes(shape, BATCH, BATCH // ROW, 1)))
        measured.append(found[case]["batch"])
    return [_row(f"vLLM {name}", "-", said, peak) for (name, said), peak in zip(rows, measured, strict=True)]


def _row(model: str, layers: str, said: float, found: float) -> dict[str, Any]:
    ratio = round(found / said, 3)
    row = {"model": model, "layers": layers, "planned MiB": round(said / MIB, 1), "measured MiB": round(found / MIB, 1)}
    return {**row, "ratio": ratio, "band": "{:g} to {:g}".format(*BAND)}


def main() -> None:
    options = read_options(arguments(__doc__))
    # Blocks above 1 MiB go back to the system when they are freed, so that resident memory is what is held.
    os.environ.update(MALLOC_MMAP_THRESHOLD_=str(MIB), MALLOC_TRIM_THRESHOLD_=str(MIB))
    two_cores(2)
    if options.worker:
        name, case = options.worker
        shape, count, tokens = SIZES[case]
        if name == "pace":
            print(json.dumps(pace(shape, count, tokens)))
            return
        print(json.dumps(serve(shape) if name == "vllm" else step(shape, count, tokens, name == "checkpointing")))
        return
    rows = []
    for case, (shape, count, tokens) in SIZES.items():
        if options.quick and case != "10M":
            continue
        for name in ("checkpointing", "plain"):
            print(f"  {case} {name}", file=sys.stderr, flush=True)
            found = child(__file__, name, case)["measured"]
            said = sum(planned(shape, count, tokens, name == "checkpointing").values())
            rows.append(_row(f"training, {shape.parameters / 1e6:.1f} M", name, said, found))
    if not options.quick:  # vLLM takes a minute to start
        rows += serving()
    print(table([*rows[0]], [[*row.values()] for row in rows]))
    ratio = paces()
    print(f"time of a step, 60M / 10M: {ratio['planned']} planned, {ratio['measured']} measured")
    write_json(
        options.out or CACHE / "plan.json",
        {"rows": rows, "time": ratio, "machine": machine(("torch", "transformers", "vllm"))},
    )
    low, high = BAND
    failed = [f"{row['model']} {row['layers']}: {row['ratio']}" for row in rows if not low <= row["ratio"] <= high]
    if not PACE[0] <= ratio["ratio"] <= PACE[1]:
        failed.append(f"time: {ratio['ratio']} (of {PACE[0]:g} to {PACE[1]:g})")
    if failed and not options.quick:
        raise SystemExit(f"not within {low:g} to {high:g}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
