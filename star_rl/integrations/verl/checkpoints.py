"""verl's checkpoints: which is the newest whole one, and what is wrong with the others."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from star_rl.errors import StarError
from star_rl.files import write_text
from star_rl.integrations.verl.recipe import Paths


def last_checkpoint(paths: Paths, say: Callable[[str], None] = print) -> int | None:
    """Return the step that verl resumes from, or None without a checkpoint.

    verl resumes from the step in its own tracker file and does not start where that file is empty, or the checkpoint is
    incomplete or missing. The file then gets the step of the newest whole checkpoint.

    Args:
        say: takes a line on a checkpoint that is skipped.

    Raises:
        OSError: a file cannot be read. Treated as missing, all checkpoints would be deleted.
        StarError: there is a tracker file, and no checkpoint is whole.
    """
    tracker = paths.checkpoints / "latest_checkpointed_iteration.txt"
    try:
        said = tracker.read_text().strip()
    except FileNotFoundError:
        said = None
    newest = int(said) if said and said.isdecimal() else None
    found = checkpoints(paths.checkpoints)
    wanted = sorted((step for step in found if newest is None or step <= newest), reverse=True)
    faults: dict[int, str] = {newest: "is missing"} if newest is not None and newest not in found else {}
    for step in wanted:
        if not (fault := fault_of(found[step])):
            break
        faults[step] = fault
    else:
        if said is None:  # killed before the first checkpoint was whole
            return None
        raise StarError(
            f"no checkpoint in {paths.checkpoints} is whole"
            + "".join(f"; step {step} {fault}" for step, fault in faults.items()),
            f"restore one, or delete {paths.checkpoints} to train from the start",
        )
    if faults:
        skipped = "; ".join(f"step {number} {fault}" for number, fault in faults.items())
        say(f"GRPO resumes from the checkpoint of step {step}, the newest whole one: {skipped}")
    if step != newest:
        write_text(tracker, str(step))
    return step


#: A shard of FSDP: what it holds, of how many ranks, of which rank.
_SHARD = re.compile(r"(\w+)_world_size_(\d+)_rank_(\d+)\.pt")


def fault_of(checkpoint: Path) -> str:
    """Return what is missing or incomplete in a checkpoint; empty if it is whole.

    verl writes ``data.pt`` last (verl/trainer/ppo/ray_trainer.py, ``_save_checkpoint``). The optimizer's shards may be
    gone as a whole, once training has ended. Of Megatron's shards, ``.metadata`` is written last.
    """
    if not (checkpoint / "data.pt").is_file():
        return "has no data.pt"
    shards: dict[str, dict[int, int]] = {}
    for file in sorted(checkpoint.rglob("*.pt")):
        if fault := _cut(file):
            return f"has an incomplete {file.relative_to(checkpoint)} ({fault})"
        if match := _SHARD.fullmatch(file.name):
            shards.setdefault(match[1], {})[int(match[3])] = int(match[2])
    for file in sorted(checkpoint.rglob("*.safetensors")):
        if not _whole_safetensors(file):
            return f"has an incomplete {file.relative_to(checkpoint)}"
    for kind, ranks in shards.items():
        if lost := set(range(max(ranks.values()))) - set(ranks):
            return f"lacks {kind} of rank {min(lost)}"
    if any(not (folder / ".metadata").is_file() for folder in checkpoint.rglob("dist_ckpt")):
        return "has no .metadata in dist_ckpt"
    weights = "model" in shards or any(any(checkpoint.rglob(name)) for name in ("dist_ckpt", "*.safetensors"))
    return "" if weights else "has no weights"


def _cut(file: Path) -> str:
    """Return why a file of ``torch.save``, a zip archive, cannot be read; empty if it can. OSErrors are raised."""
    with open(file, "rb") as handle:
        try:
            zipfile.ZipFile(handle).close()
        except zipfile.BadZipFile as error:
            return str(error)
    return ""


def _whole_safetensors(file: Path) -> bool:
    size = file.stat().st_size
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 + length:
            return False
        try:
            header = json.loads(handle.read(length))
        except ValueError:
            return False
    return bool(
        size == 8 + length + max((one["data_offsets"][1] for one in header.values() if "dtype" in one), default=0)
    )


def checkpoints(folder: Path) -> dict[int, Path]:
    """Return step -> folder of every checkpoint below ``folder``, whole or not."""
    found = {path.name.removeprefix("global_step_"): path for path in folder.glob("global_step_*")}
    return {int(step): path for step, path in found.items() if step.isdecimal()}
