"""Write models/synthetic: the student of a run on the synthetic world, with the sets that it was trained on.

    make models        # star-rl run learn-synthetic, then this script

Data from a folder (MovieLens, Amazon) may not be given on, so a run on them is refused.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.harness import ROOT
from star_rl.errors import StarError
from star_rl.files import read_json, write_text
from star_rl.training.export import export

_SETS = {"sft_set": ("sft.parquet",), "grpo_set": ("train.parquet", "valid.parquet")}
_CARD = """---
license: apache-2.0
tags: [recommendation, star-rl, synthetic]
---

# Training sets of the student in this folder's parent

Users, items and interactions are invented by a program (`star_rl/sources/synthetic.py`): nobody's data are in it. The
tables, the evidence store and these sets are made again by `star-rl run {name} --until grpo_set`.

| file | rows | what a row is |
| --- | ---: | --- |
| `sft.parquet` | {sft:,} | a successful trajectory of the teacher by rules: `messages`, `tools` (ms-swift) |
| `train.parquet` | {train:,} | a task for GRPO: `prompt`, `reward_model.ground_truth`, `extra_info` (verl); {buckets} |
| `valid.parquet` | {valid:,} | a task for validation during GRPO, from users of whom no task is trained on |

The SFT set keeps runs that rank the true item first: {kept}. The GRPO set is stratified by how many of
{samples} samples of the SFT student hit: {rated} tasks were rated, {never} were never solved and {always} always.

Use them to try a trainer, a reward or a parser. They say nothing about real users.
"""


def publish(run: Path, out: Path) -> Path:
    """Export the GRPO student of ``run`` to ``out`` and copy its sets, with a card, to ``out/data``.

    Raises:
        StarError: the data of the run are not synthetic, or a stage is missing.
    """
    made = export(run, out)
    about = read_json(made / "star_rl.json")
    if about["source"] != "synthetic":
        shutil.rmtree(made)
        raise StarError(f"{run} holds data of {about['source']!r}", "publish a run on the synthetic source")
    data = made / "data"
    data.mkdir()
    rows = {}
    for stage, names in _SETS.items():
        for name in names:
            shutil.copyfile(run / stage / name, data / name)
            rows[name.removesuffix(".parquet")] = pq.read_metadata(data / name).num_rows
    audit = read_json(run / "grpo_set" / "train.audit.json")
    text = _CARD.format(
        name=about["run"].split("-seed")[0],
        buckets=", ".join(f"{count} {name}" for name, count in audit["taken"].items()),
        kept=read_json(run / "sft_set" / "manifest.json")["figures"]["summary"].replace("runs kept ", ""),
        samples=audit["samples"],
        rated=audit["rated"],
        never=audit["dropped"]["never_solved"],
        always=audit["dropped"]["always_solved"],
        **rows,
    )
    write_text(data / "README.md", text)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "synthetic")
    given = parser.parse_args()
    made = publish(given.run, given.out)
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    print(f"{made}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
