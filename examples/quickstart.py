"""From raw data to a trained and evaluated student in plain Python: the chain of ``make quickstart``, stage by stage.

    python examples/quickstart.py                            all of it, about ten minutes on two cores
    python examples/quickstart.py --small --until teach      a tiny world as far as the SFT set, in seconds

Each step calls stages of the chain and then looks at what they wrote. A stage that is done is not run again: start the
script a second time, or after an interruption, and it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from custom_method import Recency

from star_rl import Recipe, Run, evaluate, load_recipe, parse, read_response, render, run_recipe


def recipe(out: str, small: bool) -> Recipe:
    """Return the options of the whole chain. What is not named keeps its default (star_rl/pipeline/options.py)."""
    options: dict[str, Any] = dict(
        name="small-python" if small else "quickstart-python",
        seed=7,
        out=out,
        # A synthetic world in which the next item often continues a series. Real data: another name, and a root.
        source={"name": "synthetic", "options": {"users": 2400, "categories": 4, "taste": 1.0, "p_series": 0.65}},
        # The last items of held-out users are test tasks: 20 candidates each, one of them is true.
        split={"options": {"train_per_user": 8, "max_test": 400, "max_valid": 64}},
        # Collaborative filtering, and its neighbours in words: what the tools ItemCF and UserCF answer.
        neighbours={"items_k": 200, "users_k": 50, "liked_k": 200},
        evidence={"size": "short", "budget": 12},
        tools={"lens": "candidates", "lens_top": 5},
        # The teacher: a team of agents, here by rules. A served model: backend="llm" and an endpoint (docs/teacher.md).
        teacher={
            "backend": "rules",
            "options": {
                "rules": {
                    "haste": 0.15,
                    "strategies": {"category": 0.60, "users": 0.12, "history": 0.12, "recent": 0.16},
                }
            },
        },
        # The student: a tiny Qwen3 with a tokenizer of its own. A real one: {"path": "Qwen/Qwen3-0.6B"}.
        prompt={"profile": "compact", "names": "slots", "history": 8, "top": 5},
        sft_set={"max_tokens": 1024},
        student={"tokenizer": {"max_phrases": 640}},
        sft={"recipe": "sft/tiny_cpu"},
        # The policy loop of sampling, GRPO and evaluation: how long a response may get, and how many tools it may call.
        loop={"budget": {"response_tokens": 208, "turns": 6, "calls": 6, "answer_tokens": 64}},
        engine={"in_flight": 192, "options": {"max_model_len": 768, "max_num_seqs": 128}},
        sample={"instances": 200, "n": 8, "temperature": 1.0},
        grpo={"recipe": "grpo/tiny", "reward": "star"},
        evaluate={"tasks": 400},
    )
    made = load_recipe(options)
    if small:  # to see every stage work; no figure of it says anything
        made.source.options |= {"users": 300, "items": 60, "shortest": 14, "longest": 20}
        made.split.options |= {"train_per_user": 3, "max_test": 12, "max_valid": 4}
        made.sft.overrides = {"max_steps": 150}
        made.sample.instances = 48
        made.grpo.steps = 2
        made.grpo.overrides = {
            "verl": {"data": {"train_batch_size": 4}, "actor_rollout_ref": {"actor": {"ppo_mini_batch_size": 4}}}
        }
        made.evaluate.tasks = 12
    return made


def data(options: Recipe) -> None:
    """Raw data to tables, tasks, neighbours, the evidence store, summaries and memories (none of both here)."""
    run = run_recipe(options, ["tables", "tasks", "neighbours", "evidence", "summaries", "memory"])
    task = run.tasks("test")[0]
    *_, (last, _, _) = run.history(task)
    print(f"\nUser {task.user_id} chose {len(run.history(task))} items; the last one was {run.items[last].title!r}.")
    answer = run.toolbox(run.case(task)).call("ItemCF", {"item_ids": [last]})
    print(f"What the tool ItemCF answers on it: {answer.text}")
    print(f"Candidates for the next choice: {', '.join(task.candidates)}\n")


def teach(options: Recipe) -> None:
    """Runs of the team of agents on training tasks, filtered to those that rank the true item first."""
    run = run_recipe(options, ["teach", "sft_set"])
    with open(run.folder / "teach" / "runs.jsonl", encoding="utf-8") as lines:
        first = next(row for row in map(json.loads, lines) if "text" in row)
    trajectory = parse(first["text"])
    assert render(trajectory) == first["text"], "one grammar, both ways"
    print(f"\nThe first run of the teacher has the phases {', '.join(phase.tag for phase in trajectory.phases)}:\n")
    print(first["text"], "\n")


def sft(options: Recipe) -> None:
    """A student, and supervised fine-tuning on the kept runs with ms-swift."""
    run = run_recipe(options, ["student", "sft"])
    config = json.loads((run.folder / "sft" / "final" / "config.json").read_text())
    print(f"\nA {config['model_type']} with {config['num_hidden_layers']} layers: {run.folder / 'sft' / 'final'}\n")


def grpo(options: Recipe) -> None:
    """Responses of the student, tasks of medium difficulty among them, and GRPO on these inside verl."""
    run = run_recipe(options, ["sample", "grpo_set"])
    truths = {task.task_id: task.ground_truth for task in run.tasks("train")}
    with open(run.folder / "sample" / "rollouts.jsonl", encoding="utf-8") as lines:
        rollouts = [row for row in map(json.loads, lines) if "model_text" in row]
    read = [read_response(row["model_text"], truths[row["task_id"]]) for row in rollouts]
    formed, hits = (sum(found) / len(read) for found in ([r.well_formed for r in read], [r.rank == 1 for r in read]))
    print(f"\n{len(read):,} responses before GRPO: {formed:.0%} well formed, {hits:.0%} name the true item first\n")
    run_recipe(options, ["grpo"])


def evaluation(options: Recipe) -> None:
    """The same held-out tasks for everybody: the chain's own table, then one with a method of your own."""
    run = run_recipe(options, ["evaluate", "report"])
    compare(run, ["random", "item_knn", Recency(run.items), "star:sft", "star"])
    print(f"\nThe whole report: {run.folder / 'report.html'}")


def compare(run: Run, methods: list[object]) -> None:
    """Evaluate methods by name or as objects, and print a line each."""
    out = run.folder / "compared"
    figures = evaluate(methods, run.folder, out, limit=run.config["evaluate"]["tasks"], resamples=500)
    print(f"\n{'method':<24} HR@1   HR_avg % [95 %]")
    for row in figures["methods"]:
        interval = f"[{row['hr_avg_low']:.1f}, {row['hr_avg_high']:.1f}]"
        print(f"{row['name']:<24} {row['hr1']:4.1f}   {row['hr_avg']:.1f} {interval}")


STEPS: tuple[Callable[[Recipe], None], ...] = (data, teach, sft, grpo, evaluation)


def main(arguments: list[str] | None = None) -> Path:
    """Run the steps in order and return the run's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs", help="folder of runs")
    parser.add_argument("--small", action="store_true", help="a tiny world and a few training steps")
    parser.add_argument("--until", choices=[step.__name__ for step in STEPS], default="evaluation", help="last step")
    given = parser.parse_args(arguments)
    options = recipe(given.out, given.small)
    for step in STEPS:
        step(options)
        if step.__name__ == given.until:
            break
    return Path(options.out) / options.name


if __name__ == "__main__":
    main()
