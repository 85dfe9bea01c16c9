"""Ways in which a split, the neighbours, the evidence or a prompt would leak, each made on purpose by a patch."""

import importlib

import numpy as np

import star_rl.data_builders.evidence
import star_rl.data_builders.neighbours
import star_rl.prompts.case
import star_rl.prompts.student
from star_rl.records import INTERACTIONS, read_table
from star_rl.scenarios import Histories

NAMES = [field.name for field in INTERACTIONS]


def all_rows(cutter, tasks):
    return np.arange(len(cutter.data.table))


def cutoff_included(cutter, tasks):
    return visible_where(cutter, tasks, min, lambda stamp, item, cut, truths: stamp <= cut)


def latest_cutoff(cutter, tasks):
    return visible_where(cutter, tasks, max, lambda stamp, item, cut, truths: stamp < cut)


def truths_alone_left_out(cutter, tasks):
    return visible_where(cutter, tasks, min, lambda stamp, item, cut, truths: item not in truths)


def visible_where(cutter, tasks, bound, keep):
    cuts, truths = {}, {}
    for task in tasks:
        cuts[task.user_id] = bound(task.cutoff, cuts.get(task.user_id, task.cutoff))
        truths.setdefault(task.user_id, set()).add(task.ground_truth)
    rows = zip(*(cutter.data.table[name].to_pylist() for name in NAMES[:3]), strict=True)
    mask = [user not in cuts or keep(stamp, item, cuts[user], truths[user]) for user, item, stamp in rows]
    return np.flatnonzero(mask)


def leaky_split(shown):
    def patch(monkeypatch):
        module = importlib.import_module("star_rl.scenarios.split")  # the package's `split` is the function
        monkeypatch.setattr(module._Cutter, "shown", shown)
        monkeypatch.setattr(module, "assert_no_leak", lambda *_: None)  # else the split refuses it
        monkeypatch.setattr(star_rl.data_builders.evidence, "contains_of", lambda *_: lambda user, item: False)

    return patch


def neighbours_of_all_rows(monkeypatch):
    """The store's fingerprint is that of the visible rows, and its proof holds: only bytes can tell."""
    monkeypatch.setattr(
        star_rl.data_builders.neighbours,
        "read_table",
        lambda file, name, columns: read_table(file.parent.parent / "tables", "interactions", columns),
    )


def reasons_of_all_rows(monkeypatch):
    """Evidence counts what the user did later: neither the split nor the store could know."""
    body = star_rl.data_builders.evidence.build

    def build(context):
        everything = read_table(context.inputs["tables"], "interactions")
        monkeypatch.setattr(star_rl.data_builders.evidence, "Histories", lambda visible: Histories(everything))
        return body(context)

    monkeypatch.setattr(star_rl.data_builders.evidence, "build", build)


def prompts_past_the_cutoff(monkeypatch):
    real = star_rl.prompts.case.before
    monkeypatch.setattr(star_rl.prompts.case, "before", lambda history, cutoff: real(history, cutoff + 1))
    monkeypatch.setattr(Histories, "history", lambda self, task: self.of_user(task.user_id, task.cutoff + 1))


LEAKS = {
    "all rows are visible": leaky_split(all_rows),
    "the moment of the cutoff is visible": leaky_split(cutoff_included),
    "the latest cutoff of a user counts": leaky_split(latest_cutoff),
    "the ground truths alone are left out": leaky_split(truths_alone_left_out),
    "neighbours are made of all rows": neighbours_of_all_rows,
    "reasons are made of all rows": reasons_of_all_rows,
    "prompts show the moment of the cutoff": prompts_past_the_cutoff,
}
