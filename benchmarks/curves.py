"""Draw the figures of docs/learning.md from the logs of runs; see benchmarks/results.py."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from star_rl.files import read_jsonl
from star_rl.mars.rules import TRUST
from star_rl.report.charts import save
from star_rl.report.curve_charts import line_chart
from star_rl.report.curves import GRPO, SFT, Metric, grpo_curves, read_metrics, sft_curves
from star_rl.report.model import Curve

#: Curves of GRPO in docs/learning.md.
CURVES = (
    "reward", "hr_avg", "valid_list", "no_signal_generated", "refills", "entropy", "response_length", "grad_norm",
)  # fmt: skip
#: Rollouts that name no signal.
_UNNAMED = "none named"


def draw_curves(runs: Mapping[int, Path], folder: Path) -> list[Path]:
    """Draw the curves of the trainings that have begun GRPO, by seed: a file a curve, a line a seed."""
    logs = {f"seed {seed}": run for seed, run in runs.items() if (run / "grpo" / "metrics.jsonl").is_file()}
    grpo = {label: grpo_curves(read_metrics(run / "grpo").curves) for label, run in logs.items()}
    charts = {key: (GRPO[key], {label: own.get(key, []) for label, own in grpo.items()}) for key in CURVES}
    charts["sft_loss"] = SFT["loss"], {label: sft_curves(run / "sft").get("loss", []) for label, run in logs.items()}
    charts["trust"] = Metric("Trusted signal", "% of rollouts", percent=True), trust_shares(list(logs.values()))
    return [
        save(line_chart(name, metric.title, series, metric.unit, metric.percent).figure, folder / f"{name}.svg")
        for name, (metric, series) in charts.items()
        if any(series.values())
    ]


def trust_shares(runs: Sequence[Path]) -> dict[str, Curve]:
    """Return the share of all generated rollouts that name each signal as trusted, by step, over the runs."""
    named = re.compile(f"Trust: ({'|'.join(TRUST.values())})")
    counts: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for path in (path for run in runs for path in (run / "grpo" / "details").glob("*.jsonl")):
        for row in read_jsonl(path, strict=False):
            said = named.search(json.dumps(row["messages"], ensure_ascii=False))
            counts[int(path.stem)][said[1] if said else _UNNAMED] += 1
    signals = [signal for signal in (*TRUST.values(), _UNNAMED) if any(own[signal] for own in counts.values())]
    return {
        signal: [(float(step), own[signal] / sum(own.values())) for step, own in sorted(counts.items())]
        for signal in signals
        if signals != [_UNNAMED]
    }
