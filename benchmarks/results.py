"""Rebuild docs/results.md, and the figures of docs/learning.md, from the folders of runs.

    make results RUNS="runs/learn-ml100k-seed* runs/learn-games" ARGS="--more evidence.md"

Folders ``NAME-seedN`` are the seeds of one recipe and share a section; another run or folder of ``star-rl evaluate``
has its own. An evaluation without a student, on the tasks of an earlier recipe, joins that recipe; a later recipe on
these tasks is compared with it. The curves are those of the first recipe. What stands between
``<!-- remarks: NAME -->`` and ``<!-- end of remarks -->`` is written by hand and kept.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.curves import draw_curves
from benchmarks.harness import ROOT, machine
from star_rl.errors import StarError
from star_rl.evaluation.methods.registry import BASELINES
from star_rl.evaluation.paper import RULES
from star_rl.evaluation.stages import STUDENTS
from star_rl.evaluation.studies import seeds
from star_rl.evaluation.tasks import read_tasks
from star_rl.files import read_json, write_text
from star_rl.layers import RECIPES
from star_rl.pipeline.chain import STAGES
from star_rl.pipeline.recipe import load, recipe_of
from star_rl.pipeline.stage import manifest_of, source_digest
from star_rl.report.charts import Bar, interval_chart, save
from star_rl.report.findings import changes, changes_grid, gather
from star_rl.report.grid import DASH, Grid, Row, fixed, markdown, methods, read, signed, worded
from star_rl.report.model import Pair

#: Options that name a run and its place, not what it does.
_PLACE = ("name", "out", "train_seed")
_REMARKS = re.compile(r"<!-- remarks: (\S+) -->\n(.*?)<!-- end of remarks -->", re.DOTALL)
_QWEN3 = ROOT / ".cache" / "qwen3-tokenizer" / "tokenizer.json"
_HEAD = """# Results

```
make results RUNS="{runs}"
```

writes this page from the folders of runs, and the figures of [learning.md](learning.md). All figures are from held-out
tasks with one ground truth each, HR in percent. What did not work stays in.

| name | method |
| --- | --- |
| `sft`, `star` | the student after SFT, and after GRPO |
| `{rules}` | the teacher: MARS by rules. It draws for each task which signal of the evidence it trusts |
| `{rules} strategy=..` | the teacher that trusts this signal in every task |
| `fusion` | the lists of the evidence merged by rule, without a model |
| `evidence=none` | the student whose tools have no evidence |
| `evidence=false` | the student whose tools answer with candidates drawn at random |
| `temperature=0` | greedy decoding; without it, the decoding named in the section |

- An interval is a 95 % bootstrap over the test tasks; of a difference, paired by task. It is about other tasks.
- *sd* and the columns by seed are about other trainings. In *mean* and *all seeds* a task counts once, with its mean.
- The best single strategy is chosen on these test tasks, which favours the teacher.
"""


@dataclass(frozen=True)
class Group:
    """The seeds of one recipe, or a single evaluation.

    Attributes:
        folders: seed of the training -> folder.
        further: evaluations of methods that are not trained by the recipe, on the same tasks.
    """

    name: str
    folders: Mapping[int, Path]
    further: tuple[Path, ...] = ()

    @property
    def first(self) -> Path:
        return next(iter(self.folders.values()))

    @property
    def is_run(self) -> bool:
        return (self.first / "recipe.yaml").is_file()

    @cached_property
    def figures(self) -> list[dict[str, Any]]:
        """``metrics.json`` of every seed."""
        inside = (folder / "evaluate" / "metrics.json" for folder in self.folders.values())
        return [read_json(path if path.is_file() else path.parents[1] / "metrics.json") for path in inside]

    @property
    def tasks(self) -> set[str]:
        """Fingerprints of the test tasks."""
        return {one["tasks"]["fingerprint"] for one in self.figures}

    @cached_property
    def options(self) -> dict[str, Any]:
        """The recipe's options, ``section.option`` -> value."""
        return dict(_flat(asdict(recipe_of(self.first))))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def grouped(folders: Sequence[Path]) -> list[Group]:
    """Return the folders by recipe, in the order they were given.

    An evaluation without a student on the tasks of an earlier recipe belongs to that recipe.

    Raises:
        StarError: two folders have the same name and seed.
    """
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for folder in folders:
        ending = re.search(r"-seed(\d+)$", folder.resolve().name)
        if ending:
            seed = int(ending[1])
        elif (folder / "recipe.yaml").is_file():
            seed = recipe_of(folder).seeds["train_seed"]
        else:
            seed = read_json(folder / "metrics.json").get("seed", 0)
        name = re.sub(r"-seed\d+$", "", folder.resolve().name)
        if seed in found[name]:
            raise StarError(f"{found[name][seed]} and {folder} are both seed {seed} of {name}", "rename one of them")
        found[name][seed] = folder
    groups: list[Group] = []
    for name, own in found.items():
        group = Group(name, dict(sorted(own.items())))
        named = {row["name"].split()[0] for one in group.figures for row in one["methods"]}
        home = next((one for one in groups if one.is_run and one.tasks == group.tasks), None)
        if home is None or group.is_run or named & STUDENTS.keys():
            groups.append(group)
        else:
            groups[groups.index(home)] = replace(home, further=(*home.further, group.first))
    return groups


# ---------------------------------------------------------------------------------------------------- what was measured


def pairs_of(names: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the pairs that the page compares, of the methods that are there."""

    def best_of(wanted: Callable[[str], bool]) -> str:
        return max(filter(wanted, names), key=lambda name: names[name]["hr_avg"]["mean"], default="")

    best, baseline = best_of(lambda name: name.startswith(f"{RULES} strategy=")), best_of(BASELINES.__contains__)
    wanted = [("star", "sft"), ("star", RULES), ("sft", "popularity"), ("star", best), ("star", "fusion")]
    wanted += [("star", baseline)]
    wanted += [("star temperature=0", other) for other in ("sft temperature=0", best, "fusion")]
    wanted += [(student, f"{student} evidence={how}") for student in ("star", "sft") for how in ("none", "false")]
    return [pair for pair in wanted if set(pair) <= names.keys()]


def _methods(made: Mapping[str, Any]) -> Grid:
    rows = []
    for name, own in made["methods"].items():
        low, high = own["intervals"]["all"]
        means = {figure: own[figure]["mean"] for figure in own if figure != "intervals" and "ndcg" not in figure}
        rows.append({"name": name, **means, "hr_avg_low": low, "hr_avg_high": high})
    rows.sort(key=lambda row: -row["hr_avg"])
    return methods(rows, "Methods" + (", means over the seeds" if len(made["runs"]) > 1 else ""))


def _said(made: Mapping[str, Any]) -> list[str]:
    """Return what each difference says, in words."""
    words = []
    for pair in made["pairs"]:
        a, b = (f"`{pair[one]}`" for one in "ab")
        every = [Pair(a, b, one["difference"], one["low"], one["high"]) for one in pair["seeds"].values()]
        own = every[:-1]
        reading = read(every[-1], f"{a} is better", f"{b} is better")[1]
        clear = sum(read(one)[0] == read(every[-1])[0] for one in own)
        by_seed = f"; the same reading in {clear} of {len(own)} seeds" if len(own) > 1 else ""
        words.append(f"- {a} minus {b}: {signed(every[-1].difference)} points, {reading}{by_seed}.")
    return words


def _measured(group: Group, out: Path) -> list[str]:
    """Return the tables of a group and draw its methods."""
    made = seeds.table(group.folders, (), group.further)
    made = seeds.table(group.folders, pairs_of(made["methods"]), group.further)
    bars = [
        Bar(name.replace(f"{RULES} strategy=", "MARS: "), own["hr_avg"]["mean"], *own["intervals"]["all"])
        for name, own in made["methods"].items()
    ]
    bars.sort(key=lambda bar: -(bar.value or 0.0))
    chart = interval_chart(group.name, group.name, bars, "HR_avg, % (95 % interval over the tasks)", width=640)
    picture = save(chart.figure, out.parent / out.stem / f"{group.name}.svg")
    parts = [markdown(_methods(made)), f"![HR_avg of {group.name}]({picture.relative_to(out.parent).as_posix()})\n"]
    if made["pairs"]:
        grids = seeds.grids_of(made)
        several = len(group.folders) > 1
        by_seed = [one for one in grids[:-1] if one.rows and one.title.startswith(("HR_avg", "Valid"))]
        parts += [markdown(one) for one in by_seed if several]
        parts += [markdown(grids[-1]), "\n".join(_said(made)) + "\n"]
    known = dict.fromkeys(row["name"] for one in group.figures for row in one["methods"])
    if apart := [f"`{name}`" for name in known if name not in made["methods"]]:
        parts.append(f"Not in every seed's evaluation, so not shown: {', '.join(apart)}.\n")
    return parts


def _against(group: Group, earlier: Sequence[Group]) -> list[str]:
    """Return the differences to the first earlier group with the same test tasks, seed by seed."""
    other = next((one for one in earlier if one.tasks == group.tasks and one.is_run), None)
    if other is None:
        return []
    made = []
    for seed in group.folders.keys() & other.folders.keys():
        found = gather([other.folders[seed], group.folders[seed]])
        made += [one for one in changes(found) if one.method.split()[0] in STUDENTS]
    changed = ""
    if group.is_run:
        keys = [key for key in {**group.options, **other.options} if key.split(".")[0] not in (*_PLACE, "evaluate")]
        words = [f"`{key}={_shown(group.options.get(key))}`" for key in keys if _differ(group, other, key)]
        changed = f"It differs from `{other.name}` in {', '.join(words) or 'nothing that a recipe holds'}.\n"
    return [f"### {group.name} against {other.name}\n", changed, markdown(changes_grid(made))] if made else []


def _differ(one: Group, other: Group, key: str) -> bool:
    return one.options.get(key) != other.options.get(key)


# ------------------------------------------------------------------------------------------------------- how it was run


def command_of(group: Group) -> str:
    """Return the command that makes a group's runs: the nearest recipe that ships, and what differs from it."""
    nearest: tuple[str, list[str]] | None = None
    for file in sorted(RECIPES.glob("*.yaml")):
        known = dict(_flat(asdict(load(file))))
        other = [key for key in {**known, **group.options} if known.get(key) != group.options.get(key)]
        words = [f"{key}={_shown(group.options[key])}" for key in other if key in group.options and key not in _PLACE]
        words = ["source.root=DIR" if word.startswith("source.root=") else word for word in words]
        if nearest is None or (len(words), file.stem != group.name) < (len(nearest[1]), nearest[0] != group.name):
            nearest = file.stem, words
    recipe, words = nearest or ("", [])
    named = [f"name={group.name}"] if recipe != group.name else []
    several = [f"--seeds {len(group.folders)}"] if len(group.folders) > 1 else []
    quoted = [f'"{word}"' if re.search(r"[\[\]{} *]", word) else word for word in (*named, *words)]
    return " ".join(["star-rl run", recipe, *quoted, *several])


def _shown(value: Any) -> str:
    return json.dumps(value).replace('"', "") if not isinstance(value, str) else value


def _stages(group: Group) -> Grid:
    """Return what each stage did and its minutes in every seed."""
    rows, sums = [], [0.0] * len(group.folders)
    for stage in STAGES:
        made = [manifest_of(folder / stage.name) for folder in group.folders.values()]
        if made[0] is None or stage.name == "report":
            continue
        minutes = [one["seconds"] / 60 if one and (not k or one != made[0]) else None for k, one in enumerate(made)]
        sums = [total + (own or 0.0) for total, own in zip(sums, minutes, strict=True)]
        cells = [(value, fixed(value)) for value in minutes]
        summary = "as above" if stage.name == "evaluate" else made[0]["figures"].get("summary", DASH)
        rows.append(Row(stage.name, [*worded(summary), *cells]))
    rows.append(Row("all", [*worded(""), *((total, fixed(total)) for total in sums)]))
    heads = ["stage", f"result of seed {next(iter(group.folders))}", *(f"seed {seed}" for seed in group.folders)]
    notes = [f"Minutes of wall time; {DASH}: shared with the first seed. A resumed stage counts from its last start."]
    return Grid("Stages, minutes", heads, rows, text=2, notes=notes)


def _facts(group: Group) -> list[str]:
    """Return command, data, decoding, code, versions and date of a group's runs."""
    made = [one for folder in group.folders.values() for stage in STAGES if (one := manifest_of(folder / stage.name))]
    code = sorted({pair for one in made for pair in one["key"]["code"].items()})
    versions = {name: v for one in made for name, v in one["key"]["versions"].items()}
    evaluate = recipe_of(group.first).evaluate
    changed = dict.fromkeys(name for name, digest in code if not _same_code(name, digest))
    samples = f", {evaluate.samples} samples a task" if evaluate.samples > 1 else ""
    facts = {
        "decoding": f"temperature {evaluate.temperature:g}, top_p {evaluate.top_p:g}{samples}",
        "seeds": f"data {group.options['seed']}; training {', '.join(map(str, group.folders))}",
        "code": f"changed since: {', '.join(changed)}" if changed else "that of the commit below",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version != "absent"),
        "finished": max((one["finished"] for one in made), default=DASH),
    }
    rows = [Row(name, worded(text)) for name, text in facts.items()]
    commands = [command_of(group)]
    for folder in group.further:
        names = " ".join(row["name"] for row in read_json(folder / "metrics.json")["methods"])
        commands.append(f"star-rl evaluate {names} --tasks runs/{group.first.resolve().name} --out {folder.name}")
    return ["```\n" + "\n".join(commands) + "\n```\n", markdown(Grid("How it was run", ["", ""], rows, text=2))]


def _same_code(name: str, digest: str) -> bool:
    try:
        return source_digest(name) == digest
    except StarError:
        return False


def _tokens(groups: Sequence[Group]) -> list[str]:
    """Return the tokens of a ranking by the student's tokenizer and by Qwen3's, in the group's names and in others."""
    from tokenizers import Tokenizer

    qwen3 = Tokenizer.from_file(str(_QWEN3)) if _QWEN3.is_file() else None
    rows = []
    for group in groups:
        if not (own := group.first / "student" / "model" / "tokenizer.json").is_file():
            continue
        top, names, draw = group.options["prompt.top"], group.options["prompt.names"], random.Random(0)
        tasks = read_tasks(group.first / "tasks" / "test.parquet")[:200]
        orders = [draw.sample(range(len(task.candidates)), len(task.candidates)) for task in tasks]
        listed = {
            "slots": [[f"c{place + 1}" for place in order] for order in orders],
            "ids": [[task.candidates[place] for place in order] for task, order in zip(tasks, orders, strict=True)],
        }
        student = Tokenizer.from_file(str(own))
        wanted = [(student, names, top), *((qwen3, kind, count) for count in (top, None) for kind in ("ids", "slots"))]
        means = [_length(tokenizer, listed[kind], count) for tokenizer, kind, count in wanted]
        rows.append(Row(group.name, [*worded(names), (top, str(top)), *((mean, fixed(mean)) for mean in means)]))
    heads = ["", "names", "top", "student, top", "Qwen3: ids, top", "slots, top", "ids, all", "slots, all"]
    return ["## Tokens of a ranking\n", markdown(Grid("Mean over the test tasks", heads, rows, text=2))] if rows else []


def _length(tokenizer: Any, rankings: Sequence[Sequence[str]], count: int | None) -> float | None:
    """Return the mean tokens of the rankings' first ``count``."""
    if tokenizer is None:
        return None
    texts = [json.dumps(ranking[:count]) for ranking in rankings]
    return sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts) / len(texts)


# ------------------------------------------------------------------------------------------------------------- the page


def build(folders: Sequence[Path], out: Path, more: Sequence[Path], learning: Path) -> list[Path]:
    """Write the page and the figures; return their paths."""
    groups = grouped(folders)
    kept = dict(_REMARKS.findall(out.read_text(encoding="utf-8"))) if out.is_file() else {}
    if lost := [name for name, text in kept.items() if text.strip() and name not in ("all", *(g.name for g in groups))]:
        raise StarError(f"{out} has remarks on {', '.join(lost)}, which is not among the runs", "move them or give it")

    def remarks(name: str) -> str:
        return f"<!-- remarks: {name} -->\n{kept.get(name, '')}<!-- end of remarks -->\n"

    given = " ".join(dict.fromkeys(f"runs/{folder.resolve().name}" for folder in folders))
    parts = [_HEAD.format(runs=given, rules=RULES), remarks("all")]
    for place, group in enumerate(groups):
        parts += [f"## {group.name}\n", remarks(group.name), *_measured(group, out)]
        parts += [*_against(group, groups[:place]), *(_facts(group) if group.is_run else [])]
        parts += [markdown(_stages(group))] if group.is_run else []
    runs = [group for group in groups if group.is_run]
    parts += _tokens(runs)
    parts += [path.read_text(encoding="utf-8").strip() + "\n" for path in more]
    parts.append(f"## Machine and commit\n\n{_machine()}\n")
    write_text(out, "\n".join(parts))
    trained = next((group for group in runs if (group.first / "grpo" / "metrics.jsonl").is_file()), None)
    return [out, *(draw_curves(trained.folders, learning) if trained else [])]


def _machine() -> str:
    here = machine(())
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return (
        f"Written on {here['cpu']}, {here['cores']} cores, {here['memory_gib']:g} GiB, Python {here['python']}, "
        f"at commit `{done.stdout.strip() or 'unknown'}`. Runs that were made elsewhere took other times."
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs or evaluations")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--more", nargs="*", type=Path, default=[], help="Markdown files that end the page")
    parser.add_argument("--learning", type=Path, default=ROOT / "docs" / "learning", help="folder of the curves")
    options = parser.parse_args(words)
    try:
        print(*build(options.runs, options.out, options.more, options.learning), sep="\n")
    except StarError as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
