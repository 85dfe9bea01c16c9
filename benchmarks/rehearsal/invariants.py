"""What must hold of a finished run of a recipe: each invariant is checked and printed, ok or FAILED."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from star_rl.files import read_jsonl
from star_rl.pipeline.chain import STAGES
from star_rl.pipeline.stage import manifest_of
from star_rl.records import PARTS, Task, read_tasks
from star_rl.run import Run
from star_rl.tools import TOOL_SCHEMAS

#: Share of the teacher's hits that the SFT set must keep; runs beyond ``per_task`` of a task do not count.
KEPT = 2 / 3
#: Prompts of each part that are counted in tokens, and rows whose loss mask is looked at.
_PROMPTS, _ROWS = 150, 8
_LABEL = re.compile(r"[a-z][a-z ]*(?=[ :])")

Found = tuple[bool, str]


class Rehearsed:
    """A finished run, with the runs of the other table sets up to their tasks.

    Args:
        folder: the run.
        student: folder with the real tokenizer.
        others: folders of the runs of the table sets ``long`` and ``short``.
    """

    def __init__(self, folder: Path, student: Path, others: Sequence[Path] = ()) -> None:
        self.folder, self.student, self.others = folder, student, others
        self.run = Run.open(folder)

    def figures(self, stage: str) -> dict[str, Any]:
        """Return the figures of a stage's manifest; empty if the stage has not run."""
        made: dict[str, Any] = (manifest_of(self.folder / stage) or {}).get("figures", {})
        return made

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(self.student))

    @cached_property
    def prompts(self) -> dict[str, list[tuple[Run, Task, list[dict[str, str]]]]]:
        """Part -> prompts of at most :data:`_PROMPTS` tasks; the test tasks of the other table sets are under test."""

        def of(run: Run, part: str) -> list[tuple[Run, Task, list[dict[str, str]]]]:
            return [(run, task, run.messages(task)) for task in run.tasks(part)[:_PROMPTS]]

        found = {part: of(self.run, part) for part in PARTS}
        for folder in self.others:
            found["test"] += of(Run.open(folder), "test")
        return found

    def checks(self) -> list[tuple[str, Callable[[], Found]]]:
        """Return (name, check) of every invariant that concerns this recipe."""
        found: list[tuple[str, Callable[[], Found]]] = [
            ("every stage ended", self.stages),
            ("all five scenarios are tested", self.scenarios),
            ("one prompt form for train, valid and test", self.one_form),
            ("no prompt is over-long by the real tokenizer", self.prompt_lengths),
            ("the teacher's hits are kept", self.hits),
            ("only the assistant's words are trained in SFT", self.sft_masks),
            ("GRPO took its steps, with KL and finite gradients", self.grpo),
            ("every drop is counted", self.drops),
        ]
        if self.run.config.get("summaries", {}).get("by", "none") != "none":
            found.insert(4, ("summaries are in the prompts", self.summaries))
        return found

    def stages(self) -> Found:
        absent = [stage.name for stage in STAGES if not manifest_of(self.folder / stage.name)]
        page = (self.folder / "report" / "report.html").exists() or (self.folder / "report.html").exists()
        return not absent and page, f"absent: {', '.join(absent)}" if absent else "the report is written"

    def scenarios(self) -> Found:
        tested = Counter(
            task.scenario for folder in (self.folder, *self.others) for task in read_tasks(folder / "tasks", "test")
        )
        trained = Counter(task.scenario for task in self.run.tasks("train"))
        return len(tested) == 5, f"test {_listed(tested)}; train {_listed(trained)}"

    def one_form(self) -> Found:
        """One system text; every heading and label of a test prompt also stands in prompts of training."""
        systems = {part: {messages[0]["content"] for _, _, messages in rows} for part, rows in self.prompts.items()}
        forms = {part: _forms(messages for _, _, messages in rows) for part, rows in self.prompts.items()}
        sources = {part: {task.source for _, task, _ in rows} for part, rows in self.prompts.items()}
        wrong = [f"{part} has another system text" for part in PARTS if systems[part] != systems["train"]]
        wrong += [f"{part} says source {sources[part]}" for part in PARTS if sources[part] != sources["train"]]
        for part in PARTS:
            if odd := forms[part] - forms["train"]:
                wrong.append(f"only {part} has {', '.join(sorted(odd))}")
        if missing := forms["train"] - forms["valid"] - forms["test"]:
            wrong.append(f"only train has {', '.join(sorted(missing))}")
        return not wrong, "; ".join(wrong) or f"kinds of lines: {', '.join(sorted(forms['train']))}"

    def prompt_lengths(self) -> Found:
        tools = TOOL_SCHEMAS if self.run.tools else None
        sizes = [
            len(self.tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True)["input_ids"])
            for rows in self.prompts.values()
            for _, _, messages in rows
        ]
        budget = self.run.config["prompt"]["budget"]
        return max(sizes) <= budget, f"{len(sizes)} prompts, largest {max(sizes):,} of {budget:,} tokens"

    def summaries(self) -> Found:
        """Every history longer than a chunk has a summary, and its prompt shows it."""
        chunk = self.run.config["summaries"]["chunk"]
        counts = Counter[str]()
        for run, task, messages in (row for rows in self.prompts.values() for row in rows):
            history = run.history(task)
            summary = run.summary(task.user_id, history)
            counts["long histories"] += len(history) > chunk
            counts["without a summary"] += len(history) > chunk and summary is None
            if summary is not None:
                start = " ".join(summary.text.split())[:40]
                counts["prompts without their summary"] += start not in " ".join(messages[1]["content"].split())
        lacking = counts["without a summary"] + counts["prompts without their summary"]
        return counts["long histories"] > 0 and not lacking, _listed(counts)

    def hits(self) -> Found:
        hits, audit = int(self.figures("teach").get("hits", 0)), self.figures("sft_set")
        wanted = hits - int(audit.get("dropped", {}).get("duplicate", 0))
        share = audit.get("kept", 0) / max(1, wanted)
        return wanted > 0 and share >= KEPT, f"{audit.get('kept', 0)} of {wanted} ({hits} with those of one task twice)"

    def sft_masks(self) -> Found:
        """ms-swift's own labels of some rows: what is trained, decoded, is what the assistant says."""
        from swift.model import get_processor
        from swift.template import get_template

        from star_rl.integrations.swift import plugin

        template = get_template(get_processor(str(self.student), model_type="qwen3"), template_type=plugin.TEMPLATE)
        template.set_mode("train")
        rows = pq.read_table(self.folder / "sft_set" / "sft.parquet").slice(0, _ROWS).to_pylist()
        wrong = trained = total = 0
        for row in rows:
            encoded = template.encode({"messages": row["messages"], "tools": row.get("tools")})
            ids = [token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label >= 0]
            said = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]
            wrong += self.tokenizer.decode(ids) != "".join(f"{text}<|im_end|>" for text in said)
            trained, total = trained + len(ids), total + len(encoded["input_ids"])
        return bool(rows) and not wrong, f"{len(rows)} rows, {trained / max(1, total):.0%} of their tokens are trained"

    def grpo(self) -> Found:
        steps = list(read_jsonl(self.folder / "grpo" / "metrics.jsonl"))
        wanted = self.run.config["grpo"]["steps"]
        norms = [float(step.get("actor/grad_norm", math.nan)) for step in steps]
        losses = [float(step.get("actor/kl_loss", math.nan)) for step in steps]
        sound = len(steps) == wanted and all(map(math.isfinite, [*norms, *losses]))
        said = ", ".join(f"KL {loss:.2g}, gradient norm {norm:.2g}" for loss, norm in zip(losses, norms, strict=True))
        return sound, f"{len(steps)} of {wanted} steps ({said})"

    def drops(self) -> Found:
        """What a stage read is what it kept and what it says it dropped."""
        wrong, lines = [], []
        tables = self.figures("tables")
        for name, read in tables.get("read", {}).items():
            dropped = tables.get("dropped", {}).get(name, {})
            lines.append(f"{name} {_listed(dropped)}")
            if read != tables["kept"][name] + sum(dropped.values()):
                wrong.append(
                    f"tables: {read} {name} read, {tables['kept'][name]} kept, {sum(dropped.values())} dropped"
                )
        for part, dropped in self.figures("tasks").get("dropped", {}).items():
            lines.append(f"{part} tasks {_listed(dropped)}")
        audit = self.figures("sft_set")
        lines.append(f"SFT set {_listed(audit.get('dropped', {}))}")
        if audit.get("read", 0) != audit.get("kept", 0) + sum(audit.get("dropped", {}).values()):
            wrong.append(f"sft_set: {audit.get('read')} runs read, {audit.get('kept')} kept, {audit.get('dropped')}")
        grpo_set = self.figures("grpo_set")
        lines.append(f"GRPO set {_listed(grpo_set.get('dropped', {}))}")
        return not wrong, "; ".join(wrong or lines)


def _forms(prompts: Iterable[Sequence[dict[str, str]]]) -> set[str]:
    """Headings without ids and numbers, and the lower-case words before the values of a line."""
    found = set()
    for messages in prompts:
        for line in messages[1]["content"].splitlines():
            if line.startswith("#"):
                found.add(re.sub(r"[^A-Za-z,: ]", "", line.split(" id ")[0]).strip())
            elif " | " in line:
                found |= {match[0].strip() for part in line.split(" | ")[1:] if (match := _LABEL.match(part))}
    return found


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


def report(run: Rehearsed) -> bool:
    """Print every invariant of a run; return whether all hold."""
    whole = True
    for name, check in run.checks():
        try:
            holds, said = check()
        except Exception as error:  # the other invariants are still worth knowing
            holds, said = False, f"{type(error).__name__}: {error}"
        whole &= holds
        print(f"{'ok     ' if holds else 'FAILED '}{name}: {said}", flush=True)
    return whole
