"""Run recipes/pretrained.yaml, a pretrained model of another family, and print what came of it: ``make pretrained``.

Arguments are overrides of the recipe. The model as it was pretrained answers the same tasks through the same loop.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.rehearsal.__main__ import ROOT, command
from star_rl.files import read_json, read_jsonl
from star_rl.pipeline.recipe import load
from star_rl.pipeline.stage import manifest_of

RECIPE = "recipes/pretrained.yaml"
_NAMES = {"pretrained": "as pretrained", "sft": "after SFT", "star": "after GRPO"}


def speeds(run: Path) -> dict[str, float]:
    """Return tokens a second of each part of a finished run: what a part reads, or writes where its name says so."""
    sft = (manifest_of(run / "sft") or {})["figures"]
    log = list(read_jsonl(run / "sft" / "swift" / "logging.jsonl", strict=False))
    trained = next(row for row in reversed(log) if "train_runtime" in row)
    rows = trained["train_runtime"] * trained["train_samples_per_second"]
    written = sum(row["counts"]["model_tokens"] for row in read_jsonl(run / "sample" / "rollouts.jsonl"))
    steps = list(read_jsonl(run / "grpo" / "metrics.jsonl"))
    tokens = sum(step["perf/total_num_tokens"] for step in steps)
    rollouts = sum(step["rollout/model_tokens/mean"] * step["rollouts"] for step in _counted(run, steps))

    def seconds(name: str) -> float:
        return sum(step[f"timing_s/{name}"] for step in steps)

    return {
        "SFT": rows * sft["tokens_per_row"] / trained["train_runtime"],
        "sampling, written, with the engine's start": written / (manifest_of(run / "sample") or {})["seconds"],
        "GRPO: rollouts, written": rollouts / seconds("gen"),
        "GRPO: log-probabilities": tokens / seconds("old_log_prob"),
        "GRPO: update": tokens / seconds("update_actor"),
    }


def _counted(run: Path, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the steps' metrics with how many rollouts each had."""
    details = run / "grpo" / "details"
    return [
        {**step, "rollouts": sum(1 for _ in read_jsonl(details / f"{number}.jsonl"))}
        for number, step in enumerate(steps, 1)
    ]


def report(run: Path) -> str:
    """Return the tables of a finished run as text."""
    methods = [
        row
        for folder in (run / "zero_shot", run / "evaluate")
        for row in read_json(folder / "metrics.json")["methods"]
        if row["name"] in _NAMES
    ]
    losses = [row["loss"] for row in read_jsonl(run / "sft" / "swift" / "logging.jsonl", strict=False) if "loss" in row]
    lines = [f"{'':16}{'well formed %':>14}{'valid %':>9}{'HR@1':>7}{'HR@5':>7}{'HR_avg':>8}{'tasks':>7}"]
    lines += [
        f"{_NAMES[row['name']]:16}{100 * row['format_rate']:14.1f}{100 * row['valid_rate']:9.1f}"
        f"{row['hr1']:7.1f}{row['hr5']:7.1f}{row['hr_avg']:8.1f}{row['n']:7}"
        for row in methods
    ]
    lines += ["", f"loss of SFT: {losses[0]:.3f} in the first step, {losses[-1]:.3f} in the last of {len(losses)}", ""]
    lines += [f"{name:46}{rate:8.0f} tokens/s" for name, rate in speeds(run).items()]
    stages = {path.parent.name: manifest_of(path.parent) for path in sorted(run.glob("*/manifest.json"))}
    spent = {name: made["seconds"] for name, made in stages.items() if made and made["seconds"] >= 30}
    return "\n".join([*lines, "", ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in spent.items())])


def main(overrides: list[str]) -> None:
    star_rl = str(Path(sys.executable).with_name("star-rl"))
    recipe = load(ROOT / RECIPE, overrides)
    run = Path(recipe.out) / recipe.name
    command(star_rl, "run", RECIPE, *overrides)
    before = ["--limit", str(recipe.evaluate.tasks), "--out", str(run / "zero_shot"), "--timeout", "3600"]
    command(star_rl, "evaluate", f"star:{run}/student/model:name=pretrained", "--tasks", str(run), *before)
    print(f"\n{report(ROOT / run)}")


if __name__ == "__main__":
    main(sys.argv[1:])
