"""A small world as the official simulator reads it, and an interpreter with a stand-in of the simulator's package."""

import sys

import pyarrow as pa

from star_rl.evaluation.official import write_layout
from star_rl.records import INTERACTIONS, Item, Task
from star_rl.scenarios import Histories

ITEMS = {f"i{n}": Item(f"i{n}", f"Title > {n}, \u00e9\n", ("Games", "A > B"), {"price": 3.5}) for n in range(40)}
USERS = [f"u{n}" for n in range(8)]


def world(source="amazon"):
    rows = []
    for n, user in enumerate(USERS):
        for step in range(10 + n):
            stamp = 1_600_000_000 + 1000 * (step // 2) + n  # pairs at the same time: their order has to hold
            rows.append((user, f"i{(7 * step + n) % 40}", stamp, float(1 + step % 5) if step % 3 else None, f"t{step}"))
    table = pa.Table.from_pylist([dict(zip(INTERACTIONS.names, row, strict=True)) for row in rows], INTERACTIONS)
    tasks = []
    for n, user in enumerate(USERS[:6]):
        own = [row for row in rows if row[0] == user]
        truth, cutoff = own[-1][1], own[-1][2]
        others = [name for name in ITEMS if name != truth][n : n + 19]
        scenario = "classic" if n < 4 else "user_cold_start"
        tasks.append(Task(f"t{n}", source, scenario, user, (*others[:5], truth, *others[5:]), truth, cutoff))
    return tasks, table, Histories(table)


def write(folder, source="amazon"):
    tasks, table, histories = world(source)
    cut = {task.user_id: task.cutoff for task in tasks}
    rows = zip(table["user_id"].to_pylist(), table["timestamp"].to_pylist(), strict=True)
    keep = [stamp < cut.get(user, 1 << 60) for user, stamp in rows]
    groups = write_layout(folder, tasks, table.filter(pa.array(keep)), histories.history, ITEMS)
    return tasks, histories, groups


STAND_IN = """
import json, os
from concurrent.futures import ThreadPoolExecutor
import nltk, torch, transformers, sentence_transformers  # the other track's
from scipy.spatial import distance


class SimulationEvaluator:
    def __init__(self, device):
        raise RuntimeError("the other track was asked for")


class Tool:
    def __init__(self, folder):
        def rows(name):
            with open(os.path.join(folder, name), encoding="utf-8") as handle:
                return [json.loads(line) for line in handle]
        self.users = {row["user_id"]: row for row in rows("user.json")}
        self.items = {row["item_id"]: row for row in rows("item.json")}
        self.reviews = rows("review.json")
    def get_user(self, user_id): return self.users.get(user_id)
    def get_item(self, item_id): return self.items.get(item_id)
    def get_reviews(self, user_id): return [row for row in self.reviews if row["user_id"] == user_id]


class Simulator:
    def __init__(self, data_dir, device, cache):
        SimulationEvaluator(device)
        self.tool = Tool(data_dir)
    def set_task_and_groundtruth(self, task_dir, groundtruth_dir):
        self.tasks, self.truths = [], []
        for number in range(len(os.listdir(task_dir))):
            with open(f"{task_dir}/task_{number}.json") as handle: self.tasks.append(json.load(handle))
            with open(f"{groundtruth_dir}/groundtruth_{number}.json") as handle:
                self.truths.append(json.load(handle)["ground truth"])
    def set_agent(self, kind): self.kind = kind
    def set_llm(self, llm): pass
    def run_simulation(self, enable_threading, max_workers):
        def one(task):
            agent = self.kind(llm=None)
            agent.interaction_tool, agent.task = self.tool, task
            try:
                return {"task": task, "output": agent.workflow()}
            except Exception as error:
                return {"error": str(error)}
        with ThreadPoolExecutor(max_workers) as pool:
            self.simulation_outputs = list(pool.map(one, self.tasks))
    def evaluate(self):
        lists = [row.get("output", [""]) for row in self.simulation_outputs]
        rates = [sum(t in found[:k] for t, found in zip(self.truths, lists)) / len(lists) for k in (1, 3, 5)]
        names = ("top_1_hit_rate", "top_3_hit_rate", "top_5_hit_rate")
        figures = {**dict(zip(names, rates)), "average_hit_rate": sum(rates) / 3}
        return {"metrics": figures}, [row["error"] for row in self.simulation_outputs if "error" in row]
"""
AGENT = "class RecommendationAgent:\n    def __init__(self, llm): pass\n"


def stand_in(folder):
    """An interpreter that has a package of the same names and none of what the other track needs."""
    package = folder / "packages" / "websocietysimulator"
    package.mkdir(parents=True)
    for name, text in (("__init__", ""), ("simulator", STAND_IN), ("agent", AGENT)):
        (package / f"{name}.py").write_text(text)
    script = folder / "python"
    # -S: nothing that is installed beside this interpreter
    script_of = "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r}); sys.argv = sys.argv[1:]; {script_of}"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S -c "{code}" "$@"\n')
    script.chmod(0o755)
    return script
