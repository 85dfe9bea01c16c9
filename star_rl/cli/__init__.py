"""``star-rl``: one command, a sub-command a job. The bodies are in :mod:`star_rl.cli.commands`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from star_rl import __version__
from star_rl.errors import StarError

_EXAMPLES = """\
examples:
  star-rl doctor                                   is this machine ready?
  star-rl run quickstart                           the whole chain on the built-in synthetic world
  star-rl run quickstart source=movielens source.root=DIR name=ml-100k
  star-rl run quickstart --from grpo               run GRPO and all after it again
  star-rl run quickstart grpo.reward=my_reward.py name=my-reward
  star-rl plan grpo/table5                         does it fit 16 GPUs?
  star-rl submit amazon .. --out /shared/runs --address http://HEAD:8265 --follow
"""


def _body(name: str) -> Callable[[argparse.Namespace], int]:
    """``name`` in star_rl.cli.commands, or ``module:name``."""
    module, _, function = name.rpartition(":")

    def call(arguments: argparse.Namespace) -> int:
        code: int = getattr(importlib.import_module(module or "star_rl.cli.commands"), function)(arguments)
        return code

    return call


def _add(commands: Any, name: str, words: str, examples: Sequence[str] = (), body: str = "") -> argparse.ArgumentParser:
    shown = "examples:\n" + "\n".join(f"  star-rl {line}" for line in examples) if examples else None
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=words, epilog=shown, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.set_defaults(call=_body(body or name))
    return made


def _chain(commands: Any) -> None:
    run = _add(commands, "run", "run a recipe, stage after stage", [
        "run quickstart", "run quickstart source=movielens source.root=DIR name=ml-100k",
        "run quickstart --from grpo grpo.reward=tool_cost", "run quickstart --options",
    ])  # fmt: skip
    run.add_argument("recipe", help="a recipe's file, or a name such as quickstart")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="options over the recipe's")
    run.add_argument("--from", dest="start", metavar="STAGE", help="run this stage and all after it again")
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run.add_argument("--same-code", action="store_true", help="take stages that other code made for done")
    run.add_argument("--stages", action="store_true", help="list the stages and stop")
    run.add_argument("--options", action="store_true", help="print every option with its value and stop")

    doctor = _add(commands, "doctor", "check versions, engines, the plug-in and the machine")
    doctor.add_argument("--extra", choices=("cpu", "gpu"), help="which pins to hold to (default: what is installed)")

    plan = _add(commands, "plan", "memory of each GPU and time that a recipe needs; exit code 1 when it overflows", [
        "plan amazon", "plan grpo/gpu8 --memory 79 --model Qwen/Qwen3-8B",
        "plan sft/table4 --gpus 4",
    ])  # fmt: skip
    plan.add_argument("recipe", help="a recipe or an overlay: its file, or a name such as amazon or grpo/table5")
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="options over the file's, by its keys")
    plan.add_argument("--gpus", type=int, metavar="N", help="GPUs in all (default: the recipe's)")
    plan.add_argument(
        "--memory", type=float, metavar="GIB", help="of one GPU (default: 95 for H20, 79 for H100 and A100)"
    )
    plan.add_argument("--model", help="folder or Qwen3 name (default: the recipe's)")
    plan.add_argument("--gpu", default="H20", metavar="NAME", help="H20 (default), H100 or A100: for times")
    plan.add_argument("--network", type=float, default=100.0, metavar="GBPS", help="GB/s of a node to others (100)")
    plan.add_argument("--rows", type=int, default=8646, metavar="N", help="rows of SFT (8646)")
    plan.add_argument("--row-tokens", type=int, default=9000, metavar="N", help="mean tokens of a row of SFT (9000)")
    plan.add_argument("--response-tokens", type=int, default=3500, metavar="N", help="mean of a rollout (3500)")


def _data(commands: Any) -> None:
    tables = _add(commands, "tables", "write the tables of a source", [
        "tables movielens --root DIR --out tables", "tables synthetic --out tables --set users=500 items=200",
    ])  # fmt: skip
    tables.add_argument("source", help="agentrecbench, columns, movielens, sequences or synthetic")
    tables.add_argument("--root", help="folder (or file) of the raw data")
    tables.add_argument("--out", required=True, help="folder of the tables")
    tables.add_argument("--set", nargs="+", default=[], metavar="key=value", help="options of the source")

    evidence = commands.add_parser("evidence", help="build, verify or look into an evidence store")
    kinds = evidence.add_subparsers(dest="kind", required=True, metavar="WHAT")
    verify = _add(kinds, "verify", "read every byte and hold it to its checksums",
                  ["evidence verify runs/quickstart/evidence/store"], "evidence_verify")  # fmt: skip
    verify.add_argument("store")
    inspect = _add(kinds, "inspect", "all that a store holds of one id",
                   ["evidence inspect runs/quickstart/evidence/store ItemCF 17"], "evidence_inspect")  # fmt: skip
    inspect.add_argument("store")
    inspect.add_argument("tool", choices=("ItemCF", "UserCF"))
    inspect.add_argument("key", help="an item's or user's id")
    inspect.add_argument("--most", type=int, default=20, help="neighbours shown")
    build = _add(kinds, "build", "neighbours into a sealed store", [
        "evidence build store --tables tables --visible tasks/visible.parquet --scenario classic --items items.parquet",
        "evidence build store .. --endpoint http://localhost:8000/v1 --dry-run",
    ], "evidence_build")  # fmt: skip
    build.add_argument("store", help="folder to make")
    build.add_argument("--tables", required=True, help="folder with items.parquet")
    build.add_argument("--visible", required=True, help="interactions that the neighbours were made of")
    build.add_argument("--scenario", required=True, help="the scenario these are of")
    build.add_argument("--items", help="Parquet file of items' neighbours")
    build.add_argument("--users", help="Parquet file of users' neighbours")
    build.add_argument("--tasks", help="tasks whose targets must not be visible")
    build.add_argument("--source", default="generic", help="what items are called in a model's prompt")
    build.add_argument("--size", choices=("full", "short"), default="full")
    build.add_argument("--budget", type=int, help="tokens of a text at most")
    build.add_argument("--endpoint", action="append", default=[], metavar="URL", help="a model that words the texts")
    build.add_argument("--model", default="", help="served model (default: the only one there is)")
    build.add_argument("--key", default="STAR_RL_API_KEY", metavar="VARIABLE", help="variable with the key")
    build.add_argument("--cache", help="file of replies")
    build.add_argument("--prices", type=float, nargs=2, default=(0.0, 0.0), metavar=("IN", "OUT"), help="per million")
    build.add_argument("--dry-run", action="store_true", help="say what it would cost, and stop")
    build.add_argument("--shards", type=int, default=1)
    build.add_argument("--workers", type=int, default=1)


def _results(commands: Any) -> None:
    sample = _add(commands, "sample", "rollouts of a checkpoint over tasks of a run", [
        "sample runs/quickstart --stage sft --part valid --tasks 50 --samples 8 --out sft.jsonl",
        "sample runs/quickstart --model exported --part test --out test.jsonl",
    ])  # fmt: skip
    sample.add_argument("run", help="folder of a run")
    sample.add_argument("--stage", choices=("sft", "grpo"), default="grpo", help="whose checkpoint")
    sample.add_argument("--model", help="a Hugging Face folder instead")
    sample.add_argument("--part", choices=("train", "valid", "test"), default="test")
    sample.add_argument("--tasks", type=int, metavar="N", help="the first N only")
    sample.add_argument("--samples", type=int, default=1, help="rollouts a task")
    sample.add_argument("--temperature", type=float, default=0.7)
    sample.add_argument("--top-p", type=float, default=0.95)
    sample.add_argument("--out", help="JSON lines (default: STAGE-PART.jsonl); the same command goes on where it was")

    evaluate = _add(commands, "evaluate", "answers of any number of methods to the same tasks, and their metrics", [
        "evaluate random item_knn star star:sft --tasks runs/quickstart --out judged",
        "evaluate mars mars:tools=off star:CHECKPOINT:temperature=0 --tasks runs/quickstart --out judged --limit 100",
        "evaluate cot:endpoint=http://localhost:8000/v1 --tasks runs/quickstart --out judged",
        "evaluate python:my_method.py:make --tasks tasks.parquet --world runs/quickstart --out judged",
    ], "star_rl.evaluation.evaluate:evaluate_command")  # fmt: skip
    evaluate.add_argument("methods", nargs="+", metavar="METHOD", help="name, name:argument, name:key=value")
    _judged(evaluate)
    evaluate.add_argument("--out", required=True, help="folder of the answers; the same command goes on where it was")
    evaluate.add_argument("--samples", type=int, default=1, metavar="K", help="answers a task, where they vary")
    evaluate.add_argument("--timeout", type=float, default=300.0, help="seconds for one answer (default 300)")
    evaluate.add_argument("--bootstrap", type=int, default=2000, help="resamples of the intervals")
    evaluate.add_argument("--against", metavar="METHOD", help="print the paired differences of all others to this one")

    compare = _add(commands, "compare", "evaluations in the layout of the paper's table 1, its figures beside them",
                   ["compare judged", "compare amazon goodreads yelp --out table1",
                    "compare before after --out changed"], "star_rl.evaluation.evaluate:compare_command")  # fmt: skip
    compare.add_argument("folders", nargs="+", metavar="DIR", help="folders of star-rl evaluate, or of runs")
    compare.add_argument("--out", metavar="DIR", help="write comparison.html, .md, .tex and .json there")

    official = _add(commands, "official", "methods inside the official simulator, its figures held to ours", [
        "official runs/quickstart random popularity item_knn star:temperature=0 --tasks 100",
        "official runs/amazon star --data DIR/output_data_all --task-root DIR/task/classic/amazon",
        "official runs/quickstart star --serve 127.0.0.1:8765",
    ], "star_rl.evaluation.official.command:command")  # fmt: skip
    official.add_argument("run", help="folder of a run")
    official.add_argument("methods", nargs="+", metavar="METHOD", help="as star-rl evaluate names them")
    official.add_argument("--part", choices=("train", "valid", "test"), default="test")
    official.add_argument("--tasks", type=int, metavar="N", help="the first N only")
    official.add_argument(
        "--data", metavar="DIR", help="tables of the benchmark's download (default: the run's, written)"
    )
    official.add_argument("--task-root", metavar="DIR", help="folder of the download's tasks and groundtruth")
    official.add_argument("--python", metavar="FILE", help="interpreter with websocietysimulator (see make official)")
    official.add_argument("--threads", type=int, default=16, help="tasks that the simulator works on at once")
    official.add_argument("--out", metavar="DIR", help="default: official in the run's folder")
    official.add_argument("--serve", metavar="HOST:PORT", help="only answer agents of a simulator run elsewhere")

    best = _add(commands, "best-of-k", "what k samples a task are worth, by oracle and by what can be deployed", [
        "evaluate star:logprobs=on --samples 16 --tasks runs/quickstart --out judged", "best-of-k judged",
    ], "star_rl.evaluation.studies.best_of_k:command")  # fmt: skip
    best.add_argument("folder", metavar="DIR", help="folder of star-rl evaluate --samples K")
    best.add_argument("methods", nargs="*", default=["star"], metavar="METHOD", help="default: star")
    best.add_argument("--bootstrap", type=int, default=2000, help="resamples of the intervals")
    best.add_argument("--seed", type=int, default=0, help="of the subsets")

    corpus = _add(commands, "corpus", "ranking over all items: retrieve, then re-rank in windows", [
        "corpus item_knn star --tasks runs/quickstart --out judged --depth 60",
        "corpus item_knn --tasks runs/movielens --out judged --retrieve popularity user_knn",
    ], "star_rl.evaluation.studies.corpus:command")  # fmt: skip
    corpus.add_argument("methods", nargs="+", metavar="METHOD", help="what re-ranks, as for evaluate")
    _judged(corpus)
    corpus.add_argument("--out", required=True, help="folder of corpus.json; the same command goes on where it was")
    corpus.add_argument("--retrieve", nargs="+", default=["item_knn", "user_knn", "popularity"], metavar="NAME")
    corpus.add_argument("--depth", type=int, default=100, help="items retrieved")
    corpus.add_argument("--window", type=int, default=20, help="items re-ranked at once")
    corpus.add_argument("--timeout", type=float, default=300.0, help="seconds for one window (default 300)")

    latency = _add(commands, "latency", "seconds, calls and tokens of a request: the student, MARS and MARS-Planner",
                   ["latency runs/quickstart --tasks 50 --out judged"],
                   "star_rl.evaluation.studies.latency:command")  # fmt: skip
    latency.add_argument("run", help="folder of a run")
    latency.add_argument("--method", default="star", help="whose engine and model: star, star:sft or star:FOLDER")
    latency.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="METHOD",
        help="further methods as for evaluate, such as mars:endpoint=.., timed as they are served",
    )
    latency.add_argument("--tasks", type=int, default=50, metavar="N", help="requests of each method")
    latency.add_argument("--out", required=True, help="folder of latency.json")

    ablate = _add(commands, "ablate", "train and judge the variants of the paper's table 2, and fill the table", [
        "ablate ablation", "ablate amazon source.root=DIR --only full no_tools",
    ], "star_rl.evaluation.studies.ablation:command")  # fmt: skip
    ablate.add_argument("recipe", help="a recipe's file or name; the same command goes on where it was")
    ablate.add_argument("overrides", nargs="*", metavar="key=value", help="options over the recipe's")
    ablate.add_argument("--only", nargs="+", metavar="VARIANT", help="of full, no_tools, no_planner, no_reflector")

    curves = _add(commands, "curves", "training curves of one run, or of several over each other, as a picture",
                  ["curves runs/quickstart --out curves.png", "curves runs/a runs/b --out both.svg"])  # fmt: skip
    curves.add_argument("runs", nargs="+")
    curves.add_argument("--out", required=True, metavar="FILE")

    reward = commands.add_parser("reward", help="check a reward of your own")
    kinds = reward.add_subparsers(dest="kind", required=True, metavar="WHAT")
    check = _add(kinds, "check", "try a reward on three canned responses",
                 ["reward check star", "reward check my_reward.py", "reward check pkg://my_package.reward:score"],
                 "reward_check")  # fmt: skip
    check.add_argument("spec", help="a name, a .py file or pkg://module, with :function after it where needed")
    check.add_argument("--set", nargs="+", default=[], metavar="key=value", help="keyword arguments of the reward")

    export = _add(commands, "export", "a trained student as a Hugging Face folder with a model card",
                  ["export runs/quickstart --out student", "export runs/quickstart --stage sft --out sft"])  # fmt: skip
    export.add_argument("run", help="folder of a run")
    export.add_argument("--stage", choices=("grpo", "sft"), default="grpo")
    export.add_argument("--out", required=True, help="folder to make")


def _judged(parser: argparse.ArgumentParser) -> None:
    """Which tasks are judged, and by which seed."""
    parser.add_argument("--tasks", required=True, metavar="RUN_OR_FILE", help="a run's folder, or a file of tasks")
    parser.add_argument("--part", choices=("train", "valid", "test"), default="test", help="of a run's tasks")
    parser.add_argument("--world", metavar="RUN", help="run whose tables and evidence belong to a file of tasks")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N tasks of each sub-task")
    parser.add_argument("--seed", type=int, help="of candidates' order and methods (default: the run's)")


def _cluster(commands: Any) -> None:
    def address(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--address", metavar="URL", help="the cluster's dashboard (default: RAY_API_SERVER_ADDRESS)"
        )

    submit = _add(commands, "submit", "send a recipe to a Ray cluster as a job", [
        'submit amazon source.root=/shared/amazon "teacher.options.chat.endpoints=[http://HOST:8000/v1]" '
        "--out /shared/runs --address http://HEAD:8265 --follow",
        "submit amazon .. --env WANDB_API_KEY --env HF_TOKEN",
    ])  # fmt: skip
    submit.add_argument("recipe", help="a recipe's file, or a name such as quickstart")
    submit.add_argument("overrides", nargs="*", metavar="key=value", help="options over the recipe's")
    address(submit)
    submit.add_argument("--out", help="folder of runs that every node sees (short for out=)")
    submit.add_argument("--env", action="append", default=[], metavar="NAME", help="send this variable; may repeat")
    submit.add_argument("--from", dest="start", metavar="STAGE", help="run this stage and all after it again")
    submit.add_argument("--until", metavar="STAGE", help="stop after this stage")
    submit.add_argument("--follow", action="store_true", help="print the log until the job ends")
    submit.add_argument("--extra", choices=("cpu", "gpu"), help="pins of the nodes (default: the recipe's device)")
    submit.add_argument("--python", default="python", help="interpreter on the cluster")

    status = _add(commands, "status", "jobs of a cluster, one job with the end of its log, or a run folder's stages",
                  ["status", "status amazon --follow", "status runs/quickstart"])  # fmt: skip
    status.add_argument("run", nargs="?", help="a run's name, a job's id, or a run folder")
    address(status)
    status.add_argument("--follow", action="store_true", help="print the log until the job ends")

    stop = _add(commands, "stop", "stop a job", ["stop amazon --address http://HEAD:8265"])
    stop.add_argument("run", help="a run's name or a job's id")
    address(stop)

    resume = _add(commands, "resume", "send a run again: it goes on in its folder, under its W&B run",
                  ["resume amazon --address http://HEAD:8265 --follow"])  # fmt: skip
    resume.add_argument("run", help="a run's name or a job's id")
    address(resume)
    resume.add_argument("--env", action="append", default=[], metavar="NAME", help="variables (default: as before)")
    resume.add_argument("--follow", action="store_true", help="print the log until the job ends")


def _teacher(commands: Any, chosen: str) -> None:
    """``teach`` and ``view`` declare themselves; their module loads only when one of them is called."""
    if chosen in ("teach", "view"):
        from star_rl.mars.command import register

        register(commands)
    else:
        commands.add_parser("teach", help="run the teacher over tasks, resumable")
        commands.add_parser("view", help="look at the teacher's runs: one here, or all as a page")


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The whole command line; ``argv`` tells which sub-command is wanted in full."""
    top = argparse.ArgumentParser(
        prog="star-rl",
        description="Teach one language model to recommend the way a team of agents does.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"star-rl {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (_chain, _data):
        group(commands)
    _teacher(commands, argv[0] if argv else "")
    for group in (_results, _cluster):
        group(commands)
    return top


def _parsed(made: argparse.ArgumentParser, given: Sequence[str]) -> argparse.Namespace:
    """Arguments in any order: argparse takes ``key=value`` after an option for something it does not know."""
    arguments, rest = made.parse_known_args(given)
    if rest and (not hasattr(arguments, "overrides") or any("=" not in word or word[0] == "-" for word in rest)):
        made.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 done, 1 a check failed, 2 something the user can mend, 130 interrupted."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parsed(parser(given), given)
    try:
        code: int = arguments.call(arguments)
        return code
    except StarError as error:
        print(f"star-rl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("star-rl: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
