"""Compose ms-swift's configuration: short overlays (`recipes/sft/*.yaml`) over :data:`BASE`; the last wins.

An overlay can name another one that it extends as `base: other.yaml`, relative to itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import read_json
from star_rl.layers import layers

PLUGIN = Path(__file__).with_name("plugin.py")

#: Settings of every run, where ms-swift's default differs or needs a network. See the docs of ms-swift 4.6.0.
BASE: dict[str, Any] = {
    "ENV": {
        "USE_HF": "1",  # the other default is ModelScope
        "TORCHDYNAMO_DISABLE": "1",  # nothing here compiles
        "TOKENIZERS_PARALLELISM": "false",  # the loader forks
    },
    "template": "star",
    "agent_template": "star_hermes",
    "loss_scale": "default",  # every assistant turn is trained, tool answers are not
    "split_dataset_ratio": 0,
    "strict": True,  # a bad row stops the run; over-long ones are taken out before it starts
    "truncation_strategy": "delete",
    "add_version": False,
    "load_from_cache_file": False,
    "dataset_shuffle": True,
    "save_strategy": "steps",
    "save_steps": 25,
    "save_total_limit": 2,
    "logging_steps": 5,
    "logging_nan_inf_filter": False,  # it would replace NaN by the mean of earlier losses
    "ddp_timeout": 1800,  # seconds; ms-swift's 208 days never notice a rank that hangs
    "weight_decay": 0.0,
    "gradient_checkpointing": True,
    "report_to": ["none"],
    "seed": 42,
}
#: Set for a model that is a local folder: nothing may ask a hub.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
#: Set by the run; a recipe that names one is refused.
OWNED = ("dataset", "output_dir", "resume_from_checkpoint", "external_plugins")


def layered(recipes: Sequence[str | Path | Mapping[str, Any]]) -> dict[str, Any]:
    """Merge overlays; later ones win, `ENV` key by key. `null` stays, for it removes a key of what lies further below.

    Args:
        recipes: mappings, paths, or names such as `sft/table4`. Only the first one's `base:` is read.

    Raises:
        StarError: see :func:`star_rl.layers.layers`, or `ENV` is not a mapping.
    """
    out: dict[str, Any] = {}
    for number, recipe in enumerate(recipes):
        found = [recipe] if isinstance(recipe, Mapping) else layers(recipe)
        for layer in found[-1:] if number else found:
            if not isinstance(layer.get("ENV") or {}, Mapping):
                raise StarError(f"SFT recipe: ENV={layer['ENV']} names no variables", "write NAME: value below it")
            variables = {**(out.get("ENV") or {}), **(layer.get("ENV") or {})}
            out |= layer
            if variables:
                out["ENV"] = variables
    return out


def compose(
    recipes: Sequence[str | Path | Mapping[str, Any]],
    *,
    data: Path,
    out: Path,
    model: str | Path | None = None,
    resume: Path | None = None,
) -> dict[str, Any]:
    """Return the whole ms-swift configuration: base, then the overlays in order, then the paths.

    Args:
        recipes: overlays, see :func:`layered`; `null` removes a key.
        data: Parquet with `messages` and `tools`.
        out: ms-swift's output folder.
        model: folder or hub id; wins over the recipes' `model`.
        resume: checkpoint to resume from.

    Raises:
        StarError: no model is named, or a recipe sets a key of :data:`OWNED`.
    """
    overlay = layered(recipes)
    if own := next((key for key in OWNED if key in overlay), None):
        raise StarError(f"the SFT recipe sets {own!r}", "remove it: the run sets it from its own paths")
    variables = BASE["ENV"] | (overlay.pop("ENV", None) or {})
    config = BASE | overlay
    config["ENV"] = {name: str(value) for name, value in variables.items() if value is not None}
    if not (processes := config["ENV"].get("NPROC_PER_NODE", "1")).isdecimal() or processes == "0":
        raise StarError(f"SFT recipe: NPROC_PER_NODE={processes} is no number", "write how many GPUs of a node train")
    config = {k: v for k, v in config.items() if v is not None}
    if model is not None:
        config["model"] = str(model)
    if not config.get("model"):
        raise StarError("no model to fine-tune", "name one in the recipe (model: Qwen/Qwen3-8B) or give a folder")
    if Path(config["model"]).is_dir():
        config["check_model"] = False
        config["ENV"] = OFFLINE | config["ENV"]
    elif os.sep in config["model"] and config["model"].startswith((".", "/")):
        raise StarError(f"no model folder {config['model']}", "check the path, or make the student first")
    _kernels_fit(config)
    config.setdefault("model_type", _model_type(Path(config["model"])))
    config["external_plugins"] = [str(PLUGIN)]
    config["dataset"] = [str(data)]
    config["output_dir"] = str(out)
    if resume is not None:
        config["resume_from_checkpoint"] = str(resume)
    return config


def _model_type(folder: Path) -> str:
    """Return ms-swift's name of a model's family, where it is that of its config.json; a hub id is a Qwen3."""
    file = folder / "config.json"
    return str(read_json(file).get("model_type", "qwen3")) if file.is_file() else "qwen3"


def _kernels_fit(config: Mapping[str, Any]) -> None:
    """Refuse combinations at which ms-swift 4.6.0 and liger 0.8.5 fail in the first step.

    ms-swift cuts the logits to the trained suffix (swift/trainers/mixin.py, ``use_logits_to_keep``); with two rows the
    slice is not contiguous, and liger views it (liger_kernel/transformers/model/loss_utils.py).

    Raises:
        StarError: the combination, with the keys to change.
    """
    packed = config.get("padding_free") or config.get("packing")
    rows = config.get("per_device_train_batch_size", 1)
    if config.get("use_liger_kernel") and rows > 1 and not packed and config.get("use_logits_to_keep") is not False:
        raise StarError(
            f"SFT recipe: use_liger_kernel with per_device_train_batch_size={rows} fails in its first step",
            "set padding_free: true with attn_impl: flash_attn, or use_logits_to_keep: false",
        )
    attention = str(config.get("attn_impl"))
    if packed and "flash" not in attention:  # ms-swift's rule: swift/arguments/base_args/template_args.py
        raise StarError(
            f"SFT recipe: padding_free and packing need flash attention, attn_impl is {attention}",
            "set attn_impl: flash_attn, or padding_free: false",
        )


def arguments(config: Mapping[str, Any]) -> list[str]:
    """Return `config` without `ENV` as command-line arguments, as `swift sft file.yaml` reads it."""
    out: list[str] = []
    for key, value in config.items():
        if key != "ENV":
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            out += [f"--{key}", *map(str, values)]
    return out
