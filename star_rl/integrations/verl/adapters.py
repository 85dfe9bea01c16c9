"""Merge the LoRA adapters of a checkpoint into the model that training started from.

verl 0.9.1's merger writes the untrained model with the adapters beside it (verl/model_merger/base_model_merger.py,
``save_lora_adapter``), and ``hf_model`` in ``save_contents`` saves them under PEFT's names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import read_json

#: What verl writes into a checkpoint with adapters: ``r`` and ``lora_alpha``.
META = "lora_train_meta.json"


def read_adapters(checkpoint: Path) -> dict[str, Any]:
    """Return the adapters' tensors by PEFT's names, put together from the shards of FSDP2 in the trained precision."""
    import torch

    def rank(file: Path) -> int:
        return int(file.stem.rpartition("_")[2])

    files = sorted(checkpoint.glob("model_world_size_*_rank_*.pt"), key=rank)
    shards = [torch.load(file, map_location="cpu", mmap=True, weights_only=False) for file in files]
    found = {}
    for name, first in shards[0].items():
        if "lora_" not in name:
            continue
        found[name] = first
        if hasattr(first, "placements"):  # a DTensor; the first ranks hold one replica, sharded by the last dimension
            parts = [shard[name]._local_tensor for shard in shards[: first.device_mesh.mesh.shape[-1]]]
            place = first.placements[-1]
            found[name] = torch.cat(parts, place.dim) if place.is_shard() else parts[0]
    return found


def merge(checkpoint: Path, base: Path, out: Path) -> None:
    """Write ``base`` with the checkpoint's adapters merged into its weights, in the precision of ``base``.

    Raises:
        StarError: the adapters are not of this model.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    meta, adapters = read_json(checkpoint / META), read_adapters(checkpoint)
    modules = sorted({name.partition(".lora_")[0].removeprefix("base_model.model.") for name in adapters})
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model = get_peft_model(model, LoraConfig(r=meta["r"], lora_alpha=meta["lora_alpha"], target_modules=modules))
    if unknown := model.load_state_dict(adapters, strict=False).unexpected_keys:
        raise StarError(f"{checkpoint} has no adapters of {base}: {unknown[:3]}", "train again (--from grpo)")
    model.merge_and_unload().save_pretrained(out)
