"""Is a whole recipe sound? Asked before its first stage, so that hours of teaching do not end at a mistyped key.

Every part is held to the component that will read it: the engines' own keys and sizes, the reward's contract, the files
that are named. Nothing is started and no model library is imported.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.options import keys, known, read_options
from star_rl.pipeline.options import Recipe
from star_rl.pipeline.overlays import grpo_recipe, lengths, sft_layers, sft_processes

#: Where ms-swift 4.6.0 and transformers declare what ``swift sft`` takes: files and folders of installed packages.
_SWIFT_ARGUMENTS = (
    ("swift", "arguments/base_args"),
    ("swift", "arguments/sft_args.py"),
    ("swift", "arguments/tuner_args.py"),
    ("swift", "ray_utils"),
    ("swift", "trainers/arguments.py"),
    ("transformers", "training_args.py"),
    ("transformers", "training_args_seq2seq.py"),
)
#: How these declare what is no text.
_NUMBERS = frozenset(
    form for kind in ("int", "float", "bool") for form in (kind, f"Optional[{kind}]", f"{kind} | None")
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_recipe(recipe: Recipe, until: str | None = None, *, here: bool = True, planned: bool = False) -> None:
    """Refuse a recipe that would fail later.

    Args:
        recipe: as loaded.
        until: the last stage that is wanted; what only later stages need may still be open.
        here: whether this machine runs it, so that its data must be here; elsewhere the cluster's driver looks.
        planned: for ``plan``: data and teacher may be open, and it says itself which of GRPO's sizes do not fit.

    Raises:
        StarError: the option, its value and the remedy.
    """
    wanted = _stages(until)
    _components(recipe)
    if not planned:
        if recipe.sft_set.setting == "planner_only" and "sample" in wanted:
            raise StarError(
                "sft_set.setting=planner_only makes a student that plans and ranks nothing", "end with it: --until sft"
            )
        _data(recipe, here)
        _endpoints(recipe, wanted)
    _student(recipe, here)
    _sft(recipe)
    _grpo(recipe, not planned, "grpo" in wanted)


def check_machine(recipe: Recipe, until: str | None = None) -> None:
    """Refuse to begin on this machine what only a larger one can end. A job is not asked: its preflight looks.

    Raises:
        StarError: the trainings that are wanted take more GPUs than there are.
    """
    made, wanted, have = grpo_recipe(asdict(recipe)), _stages(until), gpus_here()
    if made.device != "cuda" or made.ray.get("address") or have is None:
        return
    trainer = made.verl.get("trainer", {})
    asked = {
        "sft": (1, sft_processes(asdict(recipe.sft))),
        "grpo": (int(trainer.get("nnodes", 1)), int(trainer.get("n_gpus_per_node", 8))),
    }
    for stage, (nodes, gpus) in asked.items():
        if stage in wanted and (nodes > 1 or gpus > have):
            raise StarError(
                f"stage {stage} wants {nodes} node(s) with {gpus} GPU(s), this machine has {have}",
                "star-rl submit sends it to a cluster; sft/gpu1 and grpo/gpu1 take one GPU",
            )


def gpus_here() -> int | None:
    """NVIDIA GPUs that a process started here sees; None where they cannot be counted without asking a driver."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen is not None:
        return sum(name.strip() not in ("", "-1") for name in seen.split(","))
    if any(Path(node).exists() for node in ("/dev/kfd", "/dev/dxg")):
        return None
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _stages(until: str | None) -> tuple[str, ...]:
    from star_rl.pipeline import chain
    from star_rl.pipeline.stage import first_of

    names = tuple(stage.name for stage in chain.STAGES)
    return names if until is None else names[: first_of(chain.STAGES, until) + 1]


def _components(recipe: Recipe) -> None:
    """Options that a component of the project reads."""
    from star_rl.chat import ChatOptions
    from star_rl.evaluation.methods.registry import parse_spec
    from star_rl.mars import RuleOptions, TeamOptions
    from star_rl.mars.llm import LlmOptions
    from star_rl.policy.engines import EngineOptions
    from star_rl.policy.loop import Budget
    from star_rl.scenarios import SplitOptions
    from star_rl.student.model import StudentShape
    from star_rl.student.tokenizer import train_tokenizer
    from star_rl.teacher import PARTS

    for method in recipe.evaluate.methods:
        parse_spec(method)
    tokenizer = inspect.signature(train_tokenizer).parameters.values()
    own = [one.name for one in tokenizer if one.kind is one.KEYWORD_ONLY and one.name != "words"]
    known(recipe.student.tokenizer, own, "student.tokenizer")
    options = recipe.teacher.options
    known(options, [*keys(TeamOptions), *PARTS], "teacher.options")
    for part in ("chat", "planner_chat"):  # made where there are endpoints, see below
        known(options.get(part) or {}, ChatOptions.__dataclass_fields__, f"teacher.options.{part}")
    known(recipe.summaries.chat, ChatOptions.__dataclass_fields__, "summaries.chat")
    read_options(SplitOptions, recipe.split.options, "split.options")
    read_options(Budget, recipe.loop.budget, "loop.budget")
    read_options(EngineOptions, recipe.engine.options, "engine.options")
    read_options(StudentShape, recipe.student.shape, "student.shape")
    team = {name: value for name, value in options.items() if name not in PARTS}
    read_options(TeamOptions, team, "teacher.options")
    read_options(RuleOptions, options.get("rules") or {}, "teacher.options.rules")
    read_options(LlmOptions, options.get("llm") or {}, "teacher.options.llm")


def _data(recipe: Recipe, here: bool) -> None:
    from star_rl.sources import reads_files, source

    name, root = recipe.source.name, recipe.source.root
    source(name)
    if root is None and reads_files(name):
        raise StarError(f"source.root is not set, and {name} reads files", "set source.root=FOLDER_OF_THE_RAW_FILES")
    if here and root is not None and not Path(root).exists():
        raise StarError(f"source.root={root} is not there", "check the path")


def _student(recipe: Recipe, here: bool) -> None:
    path = recipe.student.path
    if path is None:
        return
    if Path(path).is_dir():
        from star_rl.training.student import given_student

        given_student(path)
    elif (not _HUB_ID.fullmatch(path) or path.startswith(".")) and (here or not path.startswith("/")):
        raise StarError(
            f"student.path={path} is no folder and no hub id", "name a model folder, or OWNER/NAME as Qwen/Qwen3-8B"
        )


def _endpoints(recipe: Recipe, wanted: Collection[str]) -> None:
    from star_rl.teacher import chat_options, summaries_of

    for part in ("chat", "planner_chat") if recipe.teacher.backend == "llm" and "teach" in wanted else ():
        if (given := recipe.teacher.options.get(part) or {}) or part == "chat":
            chat_options(f"teacher.options.{part}", given)
    if "summaries" in wanted and (chat := summaries_of(asdict(recipe)).get("chat")) is not None:
        chat_options("summaries.chat", chat)


# ------------------------------------------------------------------------------------------------------ the trainings


@cache
def sft_keys() -> Mapping[str, frozenset[str]]:
    """Every argument of ``swift sft`` and the types it is declared with, read from the installed sources; empty where
    they are not installed.

    Importing ms-swift takes seconds, for it imports torch; its dataclasses are declarations that read as well.
    """
    names: dict[str, frozenset[str]] = {}
    for package, place in _SWIFT_ARGUMENTS:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            return {}
        path = Path(found.origin).parent / place
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                for line in node.body if isinstance(node, ast.ClassDef) else ():
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                        name = line.target.id
                        names[name] = names.get(name, frozenset()) | {ast.unparse(line.annotation)}
    return names


def _sft(recipe: Recipe) -> None:
    from star_rl.integrations.swift.recipe import compose

    # any name: :func:`_student` has looked at the model's own, which may be a folder of the cluster's
    config = compose(sft_layers(asdict(recipe.sft)), data=Path("sft.parquet"), out=Path("sft"), model="student")
    hold_sft_keys(recipe.sft.overrides, "sft.overrides")
    hold_sft_keys(config, "sft.recipe")


def hold_sft_keys(values: Mapping[str, Any], where: str) -> None:
    """Hold keys to the arguments of ``swift sft`` and numbers to be some, where it is installed.

    Raises:
        StarError: the first that is none, with the nearest ones that are.
    """
    names = sft_keys()
    if not names:
        return
    known(values, [*names, "ENV"], where)
    for name, value in values.items():
        if isinstance(value, str) and name in names and names[name] <= _NUMBERS:
            raise StarError(f"{where}.{name}={value} is no number", "write one, such as 0.1, 1.0e-5 or true")


def _grpo(recipe: Recipe, sizes: bool, wanted: bool) -> None:
    from star_rl.integrations.verl import config_checks as fit
    from star_rl.integrations.verl.overrides import overrides_of
    from star_rl.integrations.verl.recipe import Paths, compose, verl_tree
    from star_rl.rewards import loading

    made = grpo_recipe(asdict(recipe))
    loading.check(loading.load(made.reward), f"reward {recipe.grpo.reward}", **loading.options_of(made.verl))
    if importlib.util.find_spec("verl") is None and not wanted:
        return  # builders alone are installed, and no training is asked for
    run = Path(recipe.out) / recipe.name / "grpo"
    config = compose(overrides_of(verl_tree(made, Paths(run, run / "model", run / "train", run / "store"), "check")))
    if not sizes:
        return
    rows = recipe.grpo_set.total
    found = fit.problems(config, tied=_tied(recipe)) + fit.validation_problems(config, recipe.grpo_set.validation > 0)
    fit.refuse(found + (fit.row_problems(config, rows) if isinstance(rows, int) else []))
    _prompts(recipe, int(config.data.max_prompt_length) + int(config.data.max_response_length))


def _tied(recipe: Recipe) -> bool | None:
    """Whether the student's ``lm_head`` is its embedding; None for a model whose shape is not known here."""
    from star_rl.plan.shapes import shape_of

    if recipe.student.path is None:
        return True
    try:
        return shape_of(recipe.student.path).tied
    except StarError:
        return None


def _prompts(recipe: Recipe, whole: int) -> None:
    prompt, budget = recipe.prompt, lengths(asdict(recipe)).get("max_prompt_length")
    if prompt.profile == "full" and budget is not None and prompt.budget > budget:
        raise StarError(
            f"prompt.budget={prompt.budget} is more than loop.prompt_tokens={budget}",
            "a longer prompt would be cut in GRPO: raise loop.prompt_tokens, or leave it out",
        )
    window = recipe.engine.options.get("max_model_len")
    if window is not None and window < whole:
        raise StarError(
            f"engine.options.max_model_len={window} is less than prompt and response, {whole:,}",
            "raise it, or leave it out",
        )
