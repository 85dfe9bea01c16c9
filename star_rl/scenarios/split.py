"""Split one source into training, validation and test tasks and the visible interactions.

Neighbours and evidence are built once, from the visible interactions, for training and test alike. A user's visible
interactions therefore end before the earliest cutoff of any of the user's tasks; a user without a task shows all. So a
test user's are as recent as ``test`` allows:

- ``users``: all before the cutoff, since a held-out user has one task.
- ``last``: all before the user's first training truth. A later one would let training read its own answer in the
  evidence. Fewer ``train_per_user`` (or ``max_train``) hide less.
- ``tasks``: all before the earliest cutoff of the user's own tasks; their users have no training tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from star_rl.errors import StarError
from star_rl.options import Count, Number, Size, options, read_options
from star_rl.records import CANDIDATES, Scenario, Task, tasks_from
from star_rl.scenarios.balance import even, task_type
from star_rl.scenarios.classes import Thresholds, classify
from star_rl.scenarios.histories import assert_no_leak, first_contact
from star_rl.scenarios.narrow import core, latest
from star_rl.scenarios.negatives import UntouchedOfDomain
from star_rl.scenarios.tables import Indexed, Tables

#: A share of users that leaves some.
Part = Annotated[float, Field(ge=0, lt=1, strict=True)]
_NEVER = np.iinfo(np.int64).max


@options
class SplitOptions(Thresholds):
    """Options of a split. The scenarios' thresholds matter with ``scenario = "auto"`` only."""

    #: Before all else only users and items with so many interactions among each other are kept; 0 keeps all.
    core: Count = 0
    #: Then only the last so many interactions of each user are kept, in histories too; 0 keeps all.
    max_history: Count = 0
    #: Smallest rating of a ground truth; 0: any interaction, rated or not. Histories keep the others.
    positive: Number = 0.0
    #: ``users``: held-out users, each with the last item; ``last``: everybody's last item (validation: last but one);
    #: ``tasks``: the source's own evaluation tasks.
    test: Literal["users", "last", "tasks"] = "users"
    #: Shares of users held out for test and validation, where users are held out. No share, no validation: with
    #: ``test = "last"`` the last but one is then left to training and to the neighbours.
    test_share: Part = 0.2
    valid_share: Part = 0.1
    #: With ``test = "users"``: how many users have test and training tasks, drawn among those with enough history. 0:
    #: by the shares.
    test_users: Count = 0
    train_users: Count = 0
    #: Whether neighbours see the users without a task.
    others: Literal["visible", "hidden"] = "visible"
    #: ``recent``: the last ``train_per_user`` items of a user are ground truths; ``last``: the last item only, ground
    #: truths of the test left out (paper, section 4.1).
    train: Literal["recent", "last"] = "recent"
    train_per_user: Count = 4
    #: The 19 other candidates: ``all`` items of the domain, or those ``chosen`` by at least one user.
    negatives: Literal["all", "chosen"] = "all"
    #: Fewest interactions before a ground truth.
    min_history: Size = 8
    #: Most tasks of each part, drawn evenly over sources x scenarios; 0 keeps all.
    max_train: Count = 0
    max_valid: Count = 0
    max_test: Count = 0
    #: Scenario of every task, or ``auto``: told from data (:mod:`star_rl.scenarios.classes`).
    scenario: Literal["auto", Scenario] = "classic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_share + self.valid_share >= 1:
            raise StarError(
                f"test_share={self.test_share} and valid_share={self.valid_share} leave no user for training",
                "their sum must stay below 1",
            )
        if self.test != "users" and (self.test_users or self.train_users):
            raise StarError(
                f"test_users={self.test_users} and train_users={self.train_users} need held-out users, not "
                f"test={self.test}",
                "choose test=users",
            )


@dataclass(frozen=True)
class Split:
    """Tasks, the interactions that neighbours may see (sorted), and what was dropped: part -> reason -> count.

    ``shown`` are the rows of the given interactions that ``visible`` holds, in its order. Shape: (len(visible),).
    ``kept`` are the rows that ``core`` and ``max_history`` leave to histories, sorted; None where they are off.
    """

    train: list[Task]
    valid: list[Task]
    test: list[Task]
    visible: pa.Table
    shown: np.ndarray
    kept: np.ndarray | None = None
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[Task]:
        return [*self.train, *self.valid, *self.test]


def split(tables: Tables, options: SplitOptions | Mapping[str, Any] | None = None, seed: int = 0) -> Split:
    """Cut tasks from ``tables``.

    A ground truth is always a first contact of its user, its cutoff is its timestamp, and its 19 negatives are drawn
    uniformly from the items of its domain that the user never touches at any time, before ``max_history`` neither.
    Candidates stand in random order.

    Raises:
        StarError: an option is out of range, or no test task is left.
    """
    o = options if isinstance(options, SplitOptions) else read_options(SplitOptions, options or {}, "split.options")
    cutter = _Cutter(tables, o, np.random.default_rng(seed))
    test = cutter.own() if o.test == "tasks" else None
    parts = cutter.rows(test)
    made = {name: cutter.tasks(name, parts[name], getattr(o, f"max_{name}")) for name in ("train", "valid", "test")}
    if test is not None:
        made["test"] = test
    if not made["test"]:
        why = ", ".join(f"{reason}: {count}" for reason, count in (+cutter.dropped["test"]).items())
        raise StarError(f"no test task is left ({why or 'no user has enough interactions'})", "lower min_history")
    everything = [task for part in made.values() for task in part]
    shown = cutter.shown(everything)
    visible = cutter.data.table.take(pa.array(shown))
    assert_no_leak(visible, everything)
    rows = shown if cutter.data.order is None else cutter.data.order[shown]
    dropped = {part: {**+counts} for part, counts in cutter.dropped.items() if +counts}  # + leaves zeros out
    kept = cutter.data.order if o.core or o.max_history else None
    return Split(visible=visible, shown=rows, kept=kept, dropped=dropped, **made)


class _Cutter:
    def __init__(self, tables: Tables, o: SplitOptions, rng: np.random.Generator) -> None:
        self.tables, self.o, self.rng = tables, o, rng
        data = Indexed.of(tables.interactions, tables.items)
        if o.core:
            data = data.take(core(data.user, data.item, o.core))
            if not len(data.user):
                raise StarError(f"no user and no item is left with core={o.core}", "lower core")
        self.sources = np.array(tables.domains() or [""], object)[: len(data.item_ids)]  # of each item
        self.seconds = tables.manifest.get("time", "seconds") == "seconds"
        self.dropped: dict[str, Counter[str]] = {"train": Counter(), "valid": Counter(), "test": Counter()}
        pairs, first = np.unique(data.user * len(data.item_ids) + data.item, return_index=True)
        first = np.sort(first)
        _, domain = np.unique(self.sources.astype(str), return_inverse=True)
        if o.core:
            domain[np.bincount(data.item, minlength=len(domain)) == 0] = -1
        if o.max_history:
            rows = latest(data.start, o.max_history)
            data, first = data.take(rows), np.flatnonzero(np.isin(rows, first, assume_unique=True))
        if o.negatives == "chosen":
            domain[np.bincount(data.item, minlength=len(domain)) == 0] = -1
        self.data, self.untouched = data, UntouchedOfDomain(pairs, len(data.user_ids), domain)
        if o.positive:
            first = first[data.table["rating"].to_numpy()[first] >= o.positive]
            if not len(first):
                raise StarError(f"no interaction has a rating of positive={o.positive:g} or more", "lower positive")
        # Contacts that may be ground truths, each with its place from the end of its user's: 0 is the last.
        self.first = first
        ends = np.searchsorted(data.user[self.first], np.arange(len(data.user_ids)), side="right")
        self.back = ends[data.user[self.first]] - 1 - np.arange(len(self.first))
        # Rows of one user and one timestamp are one moment: a history ends before the moment of its ground truth.
        fresh = np.ones(len(data.user), bool)
        fresh[1:] = (data.user[1:] != data.user[:-1]) | (data.stamp[1:] != data.stamp[:-1])
        moment = np.flatnonzero(fresh)[np.cumsum(fresh) - 1]
        self.before = moment - data.start[data.user]

    def own(self) -> list[Task]:
        """The source's evaluation tasks, each cut at the user's first contact with the ground truth at the latest."""
        if self.tables.tasks is None:
            source = self.tables.manifest.get("source", "data")
            raise StarError(f"source {source} brings no tasks of its own", "choose test=users or test=last")
        tasks = list(tasks_from(self.tables.tasks))
        contact = first_contact(self.tables.interactions, [(task.user_id, task.ground_truth) for task in tasks])
        out = []
        domains = "domain" in (self.tables.manifest.get("options") or {})
        source_of = dict(zip(self.data.item_ids, self.sources, strict=True)) if domains else {}
        for task, stamp in zip(tasks, contact, strict=True):
            order = self.rng.permutation(len(task.candidates))
            cut = task.cutoff if stamp is None else min(task.cutoff, stamp)
            candidates = tuple(task.candidates[k] for k in order)
            source = source_of.get(task.ground_truth, task.source)
            out.append(replace(task, source=source, cutoff=cut, candidates=candidates))
        if self.o.max_test and len(out) > self.o.max_test:
            names = np.array([task_type(task) for task in out])
            out = [out[k] for k in even(names, self.o.max_test, self.rng)]
        return out

    def rows(self, own: list[Task] | None) -> dict[str, np.ndarray]:
        """Return the rows of the interactions that become ground truths, by part."""
        o, users = self.o, len(self.data.user_ids)
        who = self.data.user[self.first]
        empty = np.zeros(0, np.int64)
        if o.test == "last":
            trains, tests = np.ones(users, bool), np.ones(users, bool)
            valids = np.full(users, o.valid_share > 0)
            first_train = 2 if o.valid_share else 1
        else:
            first_train = 0
            if own is None:
                order = self._drawn(self.rng.permutation(users))
                tests = np.zeros(users, bool)
                tests[order[: o.test_users or round(users * o.test_share)]] = True
            else:
                named = {task.user_id for task in own}
                tests = np.array([user in named for user in self.data.user_ids], bool)
                order = self.rng.permutation(np.flatnonzero(~tests))
                order = np.concatenate([np.flatnonzero(tests), order])
            valids = np.zeros(users, bool)
            rest = order[tests.sum() :]
            valids[rest[o.train_users :][: round(users * o.valid_share)]] = True
            valids &= ~tests
            trains = ~tests & ~valids
            if o.train_users:
                trains[rest[o.train_users :]] = False
        test = empty if own is not None else self._long("test", self.first[tests[who] & (self.back == 0)])
        last = 1 if o.test == "last" else 0
        valid = self._long("valid", self.first[valids[who] & (self.back == last)])
        many = 1 if o.train == "last" else o.train_per_user
        train = self._long(
            "train", self.first[trains[who] & (self.back >= first_train) & (self.back < first_train + many)]
        )
        if o.train == "last":
            known = {name: k for k, name in enumerate(self.data.item_ids)}
            truths = {known[task.ground_truth] for task in own or [] if task.ground_truth in known}
            barred = np.union1d(self.data.item[test], np.array(sorted(truths), np.int64))
            kept = train[~np.isin(self.data.item[train], barred)]
            self.dropped["train"]["ground truth of a test task"] += len(train) - len(kept)
            train = kept
        return {"train": train, "valid": valid, "test": test}

    def _drawn(self, order: np.ndarray) -> np.ndarray:
        """Put users with enough history first, where a number of them is asked for. Shapes: (u,)."""
        wanted = self.o.test_users + self.o.train_users
        if not wanted:
            return order
        last = self.first[(self.back == 0) & (self.before[self.first] >= self.o.min_history)]
        able = np.isin(order, self.data.user[last])
        if able.sum() < wanted:
            raise StarError(
                f"test_users={self.o.test_users} and train_users={self.o.train_users} are more than the "
                f"{able.sum():,} users with enough history",
                "lower them, min_history or positive",
            )
        return np.concatenate([order[able], order[~able]])

    def _long(self, part: str, rows: np.ndarray) -> np.ndarray:
        kept = rows[self.before[rows] >= self.o.min_history]
        self.dropped[part]["history shorter than min_history"] += len(rows) - len(kept)
        return kept

    def tasks(self, part: str, rows: np.ndarray, most: int) -> list[Task]:
        data, o = self.data, self.o
        if o.scenario == "auto":
            rules = Thresholds(**{f.name: getattr(o, f.name) for f in fields(Thresholds)})
            names = classify(data, data.user[rows], data.item[rows], data.stamp[rows], rules, self.seconds)
        else:
            names = np.full(len(rows), o.scenario)
        enough = self.untouched.count(data.user[rows], data.item[rows]) >= CANDIDATES - 1
        self.dropped[part][f"fewer than {CANDIDATES - 1} items the user never touched"] += int((~enough).sum())
        rows, names = rows[enough], names[enough]
        if most and len(rows) > most:
            groups = np.array([f"{s}/{n}" for s, n in zip(self.sources[data.item[rows]], names, strict=True)])
            pick = even(groups, most, self.rng)
            rows, names = rows[pick], names[pick]
        negatives = self.untouched.draw(data.user[rows], data.item[rows], CANDIDATES - 1, self.rng)
        candidates = self.rng.permuted(np.column_stack([data.item[rows], negatives]), axis=1)
        ids = np.array([*data.item_ids, None], object)[:-1]
        columns = (data.user[rows], data.item[rows], data.stamp[rows], names)
        return [
            Task(
                task_id=f"{part}-{number:06d}",
                source=self.sources[truth],
                scenario=scenario,
                user_id=data.user_ids[user],
                candidates=tuple(shown),
                ground_truth=data.item_ids[truth],
                cutoff=stamp,
            )
            for number, (user, truth, stamp, scenario, shown) in enumerate(
                zip(*(column.tolist() for column in columns), map(np.ndarray.tolist, ids[candidates]), strict=True)
            )
        ]

    def shown(self, tasks: list[Task]) -> np.ndarray:
        """Return each user's rows before the earliest cutoff of that user's tasks, so no ground truth. Ascending."""
        data = self.data
        number = {user: k for k, user in enumerate(data.user_ids)}
        known = [task for task in tasks if task.user_id in number]
        cut = np.full(len(data.user_ids), _NEVER)
        who = np.array([number[task.user_id] for task in known], np.int64)
        if self.o.others == "hidden":
            cut[~np.isin(np.arange(len(cut)), who)] = -_NEVER
        np.minimum.at(cut, who, np.array([task.cutoff for task in known], np.int64))
        return np.flatnonzero(data.stamp < cut[data.user])
