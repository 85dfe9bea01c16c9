"""Stage ``sft``: ms-swift trains the student on the SFT set."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from star_rl.pipeline.overlays import sft_layers
from star_rl.pipeline.stage import Context
from star_rl.training.student import student_path


def sft_stage(context: Context) -> dict[str, Any]:
    """``swift sft`` on the SFT set; ``final/`` is a checkpoint that vLLM and verl load."""
    from star_rl.integrations.swift.sft import run_sft

    options = context.config["sft"]
    result = run_sft(
        sft_layers(options, context.seed),
        data=context.inputs["sft_set"] / "sft.parquet",
        out=context.folder,
        model=student_path(context),
        progress=context.progress,
    )
    if not options["keep_checkpoints"]:
        thin_sft(context.folder / "swift")
    return {
        "summary": f"{result.steps:,} steps on {result.rows:,} rows, loss {result.loss or float('nan'):.3f}"
        + (f", {result.dropped_long} over-long rows left out" if result.dropped_long else ""),
        "steps": result.steps,
        "loss": result.loss,
        "rows": result.rows,
        "dropped_long": result.dropped_long,
        "tokens_per_row": result.tokens_per_row,
        "resumed_from": result.resumed_from,
    }


def thin_sft(work: Path) -> None:
    """Drop what only a resume reads, once ``final/`` stands: older checkpoints, and the newest one's optimizer.

    Its weights stay, so that the stage, killed before its manifest, finds training finished and exports again.
    """
    from star_rl.integrations.swift.sft import newest_checkpoint

    newest, _ = newest_checkpoint(work)
    for checkpoint in work.glob("checkpoint-*"):
        if checkpoint != newest:
            shutil.rmtree(checkpoint)
            continue
        for path in checkpoint.iterdir():
            if path.is_dir():  # DeepSpeed's global_step*
                shutil.rmtree(path)
            elif path.suffix in {".pt", ".pth"}:  # optimizer, scheduler, random states
                path.unlink()
