"""Runs the official simulator: a script for the interpreter that has ``websocietysimulator``, beside which nothing of
this project needs to be installed.

``python runner.py JOB.json``. The job: ``data`` (folder of the three tables), ``bridge`` (host:port), ``threads``, and
``runs``, each with ``method``, ``tasks``, ``groundtruth`` and ``out`` (folder). A run leaves ``outputs.json``, what the
simulator collected, and ``evaluation.json``, what its evaluator made of it.

The simulator is the package's own, tool and evaluator included. Left out is one thing: the scorer of the other track
(reviews), which loads three language models that the recommendation track never asks.
"""

import importlib
import importlib.util
import json
import os
import sys
import types
from typing import Any

#: What ``tools/evaluation_tool.py`` imports at its top for the other track: module -> names it takes from it.
OTHER_TRACK: dict[str, dict[str, object]] = {
    "nltk": {"data": types.SimpleNamespace(find=lambda name: name)},
    "nltk.sentiment": {"SentimentIntensityAnalyzer": object},
    "transformers": {"pipeline": object},
    "sentence_transformers": {"SentenceTransformer": object},
    "scipy": {},
    "scipy.spatial": {"distance": object},
    "torch": {},
}
ABSENT = 3


def simulator() -> Any:
    """The official module, without the other track's scorer."""
    absent = {name for name in OTHER_TRACK if "." not in name and importlib.util.find_spec(name) is None}
    for name, members in OTHER_TRACK.items():
        if name.partition(".")[0] in absent:
            module = types.ModuleType(name)
            vars(module).update(members)
            sys.modules[name] = module
    import websocietysimulator.simulator as official

    official.SimulationEvaluator = lambda device: None
    return official


def main(path: str) -> int:
    with open(path, encoding="utf-8") as handle:
        job = json.load(handle)
    if importlib.util.find_spec("websocietysimulator") is None:
        print("websocietysimulator is not installed here")
        return ABSENT
    os.environ["STAR_RL_BRIDGE"] = job["bridge"]
    sys.dont_write_bytecode = True  # beside the entry stands nothing but results
    official = simulator()
    sys.path.insert(0, os.path.dirname(job["agent"]))
    agent = importlib.import_module(os.path.splitext(os.path.basename(job["agent"]))[0])

    made = official.Simulator(data_dir=job["data"], device="cpu", cache=False)
    for run in job["runs"]:
        os.environ["STAR_RL_METHOD"] = run["method"]
        agent.ask({"open": run["method"]})  # engines start outside of the tasks' time
        made.set_task_and_groundtruth(task_dir=run["tasks"], groundtruth_dir=run["groundtruth"])
        made.set_agent(agent.StarRlAgent)
        made.set_llm(None)
        made.run_simulation(enable_threading=True, max_workers=job["threads"])
        write(run["out"], "outputs.json", made.simulation_outputs)
        result, errors = made.evaluate()
        write(run["out"], "evaluation.json", {**result, "errors": errors})
    return 0


def write(folder: str, name: str, value: object) -> None:
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "w", encoding="utf-8") as handle:
        json.dump(value, handle, indent=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
