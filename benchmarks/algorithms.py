"""Train one SFT student with GRPO and with each overlay of docs/algorithms.md, and compare them on the same tasks.

    make bench-algorithms ARGS="dapo rloo --seeds 3"
    python -m benchmarks.algorithms dapo gspo --recipe learn-ml100k source.root=DIR

Every training starts from the same checkpoint and GRPO set. An overlay with dynamic sampling generates more tokens a
step; ``grpo, equal tokens`` is plain GRPO with as many steps as these tokens allow. Finished trainings are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import machine, table, write_json
from star_rl import load_recipe, run_recipe
from star_rl.evaluation.metrics import Floats
from star_rl.files import read_jsonl
from star_rl.pipeline.chain import STAGES
from star_rl.pipeline.runner import share
from star_rl.report.charts import save
from star_rl.report.curve_charts import line_chart
from star_rl.report.findings import difference, gather

PLAIN = "grpo"
EQUAL = "grpo, equal tokens"
_HEAD = (
    "algorithm", "steps", "generated tokens", "without signal: generated", "trained on", "entropy", "HR_avg %",
    f"minus {PLAIN} [95 %]", "minus sft [95 %]",
)  # fmt: skip
_FEW = [
    "source.options.users=300", "source.options.items=60", "split.options.train_per_user=3", "evaluate.tasks=40",
    "sft.overrides.max_steps=150", "sample.instances=60", "grpo.steps=2", "evaluate.methods=[]",
    "grpo.overrides.verl.data.train_batch_size=4",
    "grpo.overrides.verl.actor_rollout_ref.actor.ppo_mini_batch_size=4",
]  # fmt: skip


def tokens(step: dict[str, Any]) -> float:
    """Return the tokens that the policy generated in a step of GRPO, those of dropped groups included."""
    rollouts = (
        step["rollout/tool_calls/sum"] / step["rollout/tool_calls/mean"] if step["rollout/tool_calls/mean"] else 0
    )
    return float(step["rollout/model_tokens/mean"] * rollouts)


def log_of(run: Path) -> list[dict[str, Any]]:
    """Return the steps of a run's GRPO."""
    return [step for step in read_jsonl(run / "grpo" / "metrics.jsonl") if "rollout/tool_calls/sum" in step]


def train(recipe: str, overrides: list[str], seed: int, name: str, overlays: list[str], steps: int = 0) -> Path:
    """Run the recipe with ``overlays``; return its folder. The stages before GRPO are those of the seed's plain run."""
    own = [f"name={name}-seed{seed}", f"train_seed={seed}", *([f"grpo.steps={steps}"] if steps else [])]
    made = load_recipe(recipe, [*overrides, f"grpo.recipe=[{','.join(overlays)}]", *own])
    before = STAGES[: [stage.name for stage in STAGES].index("grpo")]
    folder, plain = Path(made.out) / made.name, Path(made.out) / f"{PLAIN}-seed{seed}"
    if folder != plain:
        share(plain, folder, before)
    run_recipe(made)
    return folder


def row(name: str, runs: list[Path], plain: list[Path]) -> list[str]:
    """Return the table's row: means over the seeds; a task counts once, with its mean over the seeds."""
    logs = [log_of(run) for run in runs]
    steps = [step for log in logs for step in log]

    def mean(key: str, of: list[dict[str, Any]]) -> float:
        return float(np.mean([step[key] for step in of if key in step] or [np.nan]))

    def score(key: str, of: list[Path]) -> Floats:
        found = [gather([run]).scores for run in of]
        return np.mean([next(values for (_, method), values in own.items() if method == key) for own in found], axis=0)

    def against(other: Floats) -> str:
        found = difference(star, other)
        return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"

    star, trained = score("star", runs), mean("groups/without_signal", steps)
    generated = mean("groups/generated/without_signal", steps)
    return [
        name, f"{len(logs[0])}", f"{sum(map(tokens, steps)) / len(logs):,.0f}",
        f"{100 * (trained if np.isnan(generated) else generated):.0f} %", f"{100 * trained:.0f} %",
        f"{mean('actor/entropy', [log[-1] for log in logs]):.3f}", f"{100 * star.mean():.1f}",
        "" if name == PLAIN else against(score("star", plain)), against(score("sft", runs)),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", help="overlays of recipes/grpo, and key=value of the recipe")
    parser.add_argument("--recipe", default="learn-synthetic")
    parser.add_argument("--machine", default="grpo/tiny", help="the overlay that says what fits the machine")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", default="runs/algorithms", help="folder of runs, of the table and of the curves")
    parser.add_argument("--quick", action="store_true", help="a few steps: shows only that it works")
    given = parser.parse_args()
    overrides = [word for word in given.algorithms if "=" in word]
    chosen = [word for word in given.algorithms if "=" not in word] or ["dapo"]
    overrides = [f"out={given.out}", *(_FEW if given.quick else []), *overrides]
    first = load_recipe(given.recipe, overrides).seeds["train_seed"]
    seeds = range(first, first + given.seeds)
    runs = {PLAIN: [train(given.recipe, overrides, seed, PLAIN, [given.machine]) for seed in seeds]}
    for name in chosen:
        overlays = [given.machine, f"grpo/{name}"]
        runs[name] = [train(given.recipe, overrides, seed, name, overlays) for seed in seeds]
        if name == "dapo":
            of_plain, of_dapo = (np.mean([sum(map(tokens, log_of(r))) for r in runs[n]]) for n in (PLAIN, name))
            steps = round(len(log_of(runs[PLAIN][0])) * float(of_dapo / of_plain))
            runs[EQUAL] = [
                train(given.recipe, overrides, seed, f"{PLAIN}-equal", [given.machine], steps) for seed in seeds
            ]
    out = Path(given.out)
    print(table(_HEAD, [row(name, own, runs[PLAIN]) for name, own in runs.items()]))
    logs = {name: [log_of(run) for run in own] for name, own in runs.items()}
    write_json(out / "algorithms.json", {"machine": machine(["verl", "vllm", "torch"]), "steps": logs})
    series = {name: _signal(own[0]) for name, own in runs.items()}
    chart = line_chart("signal", "Groups without signal among those trained on", series, "%", percent=True)
    save(chart.figure, out / "signal.svg")


def _signal(run: Path) -> list[tuple[float, float]]:
    """Return the curve (thousand tokens generated so far, share of trained groups without signal)."""
    made, points = 0.0, []
    for step in log_of(run):
        made += tokens(step)
        points.append((made / 1000, step["groups/without_signal"]))
    return points


if __name__ == "__main__":
    main()
