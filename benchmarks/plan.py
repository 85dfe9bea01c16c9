"""What ``star-rl plan`` says a training step needs, beside what it takes here on the CPU.

    python -m benchmarks.plan --out .bench/plan.json

One step of a Qwen3 of about 10 and 60 M parameters in bf16: forward, backward through transformers' own loss, update of
32-bit weights and two moments, with gradient checkpointing and without. The growth of the process's peak resident
memory is held against the plan of the same step on one GPU, less what CUDA takes there.

Each measurement is a process of its own. The ratio measured / planned must lie within ``BAND``: a plan that promises
less than is needed is worse than one that asks for more, so the band is not even.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import CACHE, arguments, child, machine, table, two_cores, write_json
from launch.plan import GIB, Shape

#: Measured / planned.
BAND = (0.75, 1.10)
MIB = 2**20
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
    from launch.plan.sft import plan_sft

    config = {"per_device_train_batch_size": rows, "max_length": tokens, "gradient_checkpointing": checkpointing}
    (phase,) = plan_sft(config, shape, 1, 80 * GIB).phases
    return {name: size for name, size in phase.parts.items() if size and not name.startswith("CUDA")}


def resident(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process, bytes."""
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


def main() -> None:
    options = arguments(__doc__).parse_args()
    # Blocks above 1 MiB go back to the system when they are freed, so that resident memory is what is held.
    os.environ.update(MALLOC_MMAP_THRESHOLD_=str(MIB), MALLOC_TRIM_THRESHOLD_=str(MIB))
    two_cores(2)
    if options.worker:
        name, case = options.worker
        print(json.dumps(step(*SIZES[case], name == "checkpointing")))
        return
    rows, failed = [], []
    low, high = BAND
    for case, (shape, count, tokens) in SIZES.items():
        for name in ("checkpointing", "plain"):
            print(f"  {case} {name}", file=sys.stderr, flush=True)
            found = child(__file__, name, case)["measured"] / MIB
            said = sum(planned(shape, count, tokens, name == "checkpointing").values()) / MIB
            ratio = round(found / said, 3)
            row = {"model": f"{shape.parameters / 1e6:.1f} M", "layers": name, "planned MiB": round(said)}
            rows.append({**row, "measured MiB": round(found), "ratio": ratio, "band": f"{low:g} to {high:g}"})
            if not low <= ratio <= high:
                failed.append(f"{case} {name}: {ratio} is not within {low:g} to {high:g}")
    print(table([*rows[0]], [[*row.values()] for row in rows]))
    write_json(options.out or CACHE / "plan.json", {"rows": rows, "machine": machine(("torch", "transformers"))})
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
