"""Folders as ``star-rl evaluate`` leaves them, made without a run."""

import json
import re
from html.parser import HTMLParser

import pytest

from star_rl.evaluation import results
from star_rl.evaluation.metrics import is_valid
from star_rl.evaluation.results import Answer
from star_rl.evaluation.scores import score
from star_rl.evaluation.tasks import fingerprint_of, task_set, write_tasks
from star_rl.failure import Failure
from star_rl.files import write_json
from star_rl.records import Task

IDS = tuple(f"i{number}" for number in range(20))
VOID = {"meta", "br", "img", "hr", "input", "link"}


class Checker(HTMLParser):
    """Every tag that opens closes, in order; collects tags, attributes, ids and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"attribute twice in <{tag}>")
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if "svg" not in self.stack:
            self.faults.append(f"<{tag}/> closes itself")

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.faults.append(f"stray </{tag}>")

    def handle_data(self, data):
        if not self.stack or self.stack[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def _check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.faults == []
    assert checker.stack == []
    ids = [attrs["id"] for _, attrs in checker.tags if "id" in attrs]
    assert len(ids) == len(set(ids)), "an id stands twice"
    for _, attrs in checker.tags:
        for key in ("aria-labelledby", "href"):
            for name in (attrs.get(key) or "").removeprefix("#").split():
                assert name in ids, f"{key} names {name}, which is not there"
    assert [tag for tag, _ in checker.tags].count("script") == 1
    assert not [attrs for _, attrs in checker.tags if any(name.startswith("on") for name in attrs)]
    assert not [attrs for _, attrs in checker.tags if "src" in attrs or "style" in attrs]
    assert not re.search(r"https?://|@import|url\(", page)
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", page)
    page.encode("utf-8")
    return checker


@pytest.fixture
def check():
    """Parses a page: well formed, closed to the outside, its ids and what refers to them in order."""
    return _check


def _words(text, ranking):
    plan = f"<plan>\n<Thinking>{text}</Thinking>\n<JSON>[]</JSON>\n</plan>"
    said = f"{plan}\n<recommend>\n<JSON>{json.dumps(ranking)}</JSON>\n</recommend>"
    return [{"role": "system", "content": "be good"}, {"role": "assistant", "content": said}]


@pytest.fixture
def evaluation():
    """``make(folder, methods, ..)``: method -> ranks of the truth by task (0: absent, None: failed, ...: not asked)."""

    def make(folder, methods, source="amazon", scenarios=("classic",), official=False, text="well", writers=(), **more):
        count = len(next(iter(methods.values()))) // len(scenarios)
        tasks = [
            Task(f"{scenario}-{k}", source, scenario, f"u{k}", IDS, "i7", 5)
            for scenario in scenarios
            for k in range(count)
        ]
        made = task_set(tasks, 7, official)
        answers = []
        (folder / "answers").mkdir(parents=True)
        for number, (name, ranks) in enumerate(methods.items()):
            lines = [{"began": number, "settings": {"method": name}}]
            for task, rank in zip(made.tasks, ranks, strict=True):
                if rank is ...:
                    continue
                ranking = None
                if rank is not None:
                    ranking = [item for item in task.candidates if item != "i7"]
                    if rank:
                        ranking.insert(rank - 1, "i7")
                wrote = name in writers
                answers.append(
                    Answer(
                        name,
                        task,
                        ranking,
                        well_formed=True if wrote else None,
                        valid=is_valid(ranking, task.candidates, 1),
                        calls=2 if wrote else None,
                        failure=None if ranking else Failure.late(300),
                    )
                )
                row = {"task_id": task.task_id, "sample": 0, "ranking": ranking}
                lines.append(row | ({"trace": {"messages": _words(text, ranking)}} if wrote else {}))
            path = folder / "answers" / f"{number}.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        table = results.table_of(answers)
        write_tasks(folder / "tasks.parquet", made.tasks)
        results.write(folder / "answers.parquet", table)
        cells = [
            {"source": one, "scenario": scenario, "n": len(own), "fingerprint": fingerprint_of(own)}
            for (one, scenario), own in made.cells.items()
        ]
        scored = score(table, made.tasks, 1, 200, 0)
        for row in scored["methods"]:
            row |= more.get(row["name"], {})
        write_json(
            folder / "metrics.json",
            {
                **scored,
                "tasks": {"fingerprint": made.fingerprint, "official": official, "cells": cells},
                "notes": [*scored["notes"], *made.notes],
                "seed": 7,
                "versions": {"star-rl": "1"},
            },
        )
        return folder

    return make
