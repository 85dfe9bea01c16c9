"""Run GRPO: start the unmodified ``python -m verl.trainer.main_ppo``, follow it and end it.

>>> run_grpo(load_recipe("grpo/tiny"), Paths(run, model, train, store), on_step=print)   # doctest: +SKIP

In the run folder: ``train.log`` (all output), ``metrics.jsonl`` (one line a step), ``rollouts/<step>.jsonl``,
``details/<step>.jsonl``, ``validation/<step>.jsonl``, ``checkpoints/``, ``wandb/``, ``overrides.txt``,
``agent_loops.yaml``. Running again in the same folder resumes from the last checkpoint, with the same data order and
W&B run.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from star_rl import locks
from star_rl.errors import StarError
from star_rl.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from star_rl.integrations import copy_tokenizer, processes
from star_rl.integrations.verl import adapters, config_checks, validation
from star_rl.integrations.verl.checkpoints import checkpoints, last_checkpoint
from star_rl.integrations.verl.overrides import overrides_of
from star_rl.integrations.verl.recipe import (
    GrpoRecipe,
    Paths,
    agent_loops,
    cluster_overrides,
    compose,
    environment,
    ray_folder,
    verl_tree,
)
from star_rl.rewards import loading

_POLL_SECONDS = 0.5
_LOST_STEPS = 3  # in a row whose gradient is not finite
#: Ray's words for an actor that died without an exception of its own, and where it ran.
_DIED = re.compile(r"because its (worker process|node) has died")
_NODE = re.compile(r"\(raylet(?:, ip=(\S+?))?\).*Raylet is terminated|has been marked dead")
_PLACE = re.compile(r"^\s*(?:\(.*?\)\s*)?ip: (\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One finished training step. ``metrics`` are named as verl names them; ``seconds`` since the launch."""

    step: int
    steps: int
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class GrpoResult:
    """A finished run. ``checkpoint`` is the last, or with ``keep: best`` the ``best`` by validation.

    ``startup_seconds`` are from the launch to the start of the first step; ``ended`` says why training ended before
    its last step.
    """

    steps: int
    checkpoint: Path
    resumed_from: int
    startup_seconds: float = 0.0
    ended: str = ""
    best: validation.Validated | None = None


def check(recipe: GrpoRecipe, paths: Paths, name: str = "grpo") -> list[str]:
    """Compose and validate a run without starting it; return verl's overrides.

    Raises:
        StarError: a path is missing, the reward breaks its contract, verl refuses a key, sizes do not fit together, or
            verl is to validate and there are no rows for it.
    """
    for what, path in (("model", paths.model), ("training set", paths.train), ("evidence store", paths.store)):
        if not path.exists():
            raise StarError(f"there is no {what} at {path}", "check the path, or run the stage that writes it")
    keys = loading.check(loading.load(recipe.reward), f"the reward {recipe.reward}", **loading.options_of(recipe.verl))
    overrides = overrides_of(verl_tree(recipe, paths, name))
    config = compose(overrides)
    problems = config_checks.problems(config, tied=_tied(paths.model))
    problems += config_checks.metric_problems(config, keys)
    problems += config_checks.row_problems(config, _rows(paths.train))
    config_checks.refuse(problems + config_checks.validation_problems(config, paths.val is not None))
    return overrides


def _tied(model: Path) -> bool | None:
    """Return whether a model's ``lm_head`` is its embedding; None if unknown."""
    file = model / "config.json"
    return bool(read_json(file).get("tie_word_embeddings", False)) if file.is_file() else None


def run_grpo(
    recipe: GrpoRecipe,
    paths: Paths,
    name: str = "grpo",
    on_step: Callable[[TrainingStep], None] | None = None,
    say: Callable[[str], None] = print,
) -> GrpoResult:
    """Train to the end of the recipe; resume from the newest whole checkpoint in ``paths.run`` if there is one.

    ``say`` takes a line on a checkpoint that is skipped.

    Training ends before with ``algorithm.filter_groups``, when no group has signal in several steps in a row, and with
    ``patience``, when several validations in a row bring no gain.

    Raises:
        StarError: the recipe does not fit (see :func:`check`), another process trains in this folder, or training
            failed; the message then holds the last lines of the log.
    """
    overrides = check(recipe, paths, name)
    config = compose(overrides)
    total, options = _total_steps(config, paths), config.trainer.v1.sampler.sampler_kwargs
    paths.run.mkdir(parents=True, exist_ok=True)
    with locks.hold(paths.run / "lock", f"another process trains in {paths.run}", "wait, or choose another folder"):
        processes.end(paths.run)  # what an earlier, killed launcher may have left running
        resumed = last_checkpoint(paths, say) or 0
        if resumed >= total or _stalled(paths, options, resumed):  # killed after its last checkpoint
            merge_metrics(paths)
            return _result(paths, options, resumed, total, resumed)
        attempt = _prepare(recipe, paths, overrides, options["keep"] == "best")
        variables = environment(recipe, paths, attempt, resumed)
        overrides += cluster_overrides(recipe, variables)
        command = [sys.executable, "-m", "verl.trainer.main_ppo", *overrides]
        started = time.monotonic()
        log_start = paths.log.stat().st_size if paths.log.exists() else 0
        trainer = processes.start(command, variables, paths.run, paths.log)
        reported: list[TrainingStep] = []
        try:
            for step in _follow(paths, attempt, started, total, trainer.poll):
                reported.append(step)
                if on_step is not None:
                    on_step(step)
        finally:
            # after success too: Ray's daemons outlive the driver by some seconds
            processes.end(paths.run)
            with contextlib.suppress(Exception):
                trainer.wait(timeout=10)
            shutil.rmtree(ray_folder(paths.run), ignore_errors=True)
            merge_metrics(paths)
        if trainer.returncode != 0:
            death = _death(processes.read_log(paths.log, log_start))
            what = f"GRPO failed with exit code {trainer.returncode}{death}"
            raise StarError(
                f"{what}; the end of {paths.log}:\n{processes.tail(paths.log, log_start)}",
                "fix the cause and run again: training resumes from its last checkpoint",
            )
        latest = last_checkpoint(paths)
        if latest is None:
            raise StarError(f"GRPO ended without a checkpoint in {paths.checkpoints}", "set verl.trainer.save_freq")
        first = reported[0] if reported else None
        startup = first.seconds - first.metrics.get("timing_s/step", 0.0) if first else 0.0
        return _result(paths, options, latest, total, resumed, startup)


def _stalled(paths: Paths, options: Mapping[str, Any], step: int) -> bool:
    return validation.stalled(validation.validations(paths.validation, step), options["patience"])


def _result(
    paths: Paths, options: Mapping[str, Any], latest: int, total: int, resumed: int, startup: float = 0.0
) -> GrpoResult:
    """Return the result of a training that has ended at its checkpoint ``latest``, before ``total`` perhaps."""
    ended, top = "", None
    if latest < total:  # the replay buffer ended it
        if _stalled(paths, options, latest):
            ended = f"no gain in {options['patience']} validations"
        else:
            barren = int(read_metrics(paths)[-1]["groups/steps_without_signal"])
            ended = f"no group had signal in {barren} steps in a row"
    if options["keep"] == "best":
        top = validation.best(validation.validations(paths.validation, latest), checkpoints(paths.checkpoints))
    chosen = paths.checkpoints / f"global_step_{top.step if top else latest}" / "actor"
    return GrpoResult(latest, chosen, resumed, startup, ended, top)


def export(result: GrpoResult, target: Path, trained: Path) -> Path:
    """Export a checkpoint as a Hugging Face folder: adapters merged, else copied if verl saved one, else from shards.

    FSDP saves it in ``huggingface`` with ``hf_model``; Megatron in ``model/huggingface``, unless it has its own shards
    (``use_dist_checkpointing``; verl/utils/megatron_utils.py:1081).

    Args:
        result: names the checkpoint.
        target: the folder to write.
        trained: the model that training started from. Adapters are merged into it, and its tokenizer files and dtype
            replace those of the checkpoint.

    Raises:
        StarError: merging failed.
    """
    whole = [result.checkpoint / "model" / "huggingface", result.checkpoint / "huggingface"]
    saved = next((folder for folder in whole if any(folder.glob("*.safetensors"))), None)
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    if (result.checkpoint / adapters.META).is_file():
        adapters.merge(result.checkpoint, trained, partial)
    elif saved is not None:
        shutil.copytree(saved, partial)
    else:
        backend = "megatron" if (result.checkpoint / "model" / "dist_ckpt").is_dir() else "fsdp"
        arguments = ["merge", "--backend", backend, "--local_dir", str(result.checkpoint), "--target_dir", str(partial)]
        log = target.parent / "merge.log"
        merging = processes.start([sys.executable, "-m", "verl.model_merger", *arguments], {}, target.parent, log)
        if merging.wait() != 0:
            raise StarError(
                f"cannot merge {result.checkpoint}; the end of {log}:\n{processes.tail(log)}", "see the log"
            )
    copy_tokenizer(trained, partial)
    # verl says bfloat16, whatever it trained (verl/utils/checkpoint/fsdp_checkpoint_manager.py)
    config, began = read_json(partial / "config.json"), read_json(trained / "config.json")
    write_json(partial / "config.json", {**config, "dtype": began.get("dtype", "bfloat16")})
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def read_metrics(paths: Paths) -> list[dict[str, float]]:
    """Return the metrics of all attempts, one mapping a step with the key ``step``; the later run of a step wins."""
    by_step: dict[int, dict[str, float]] = {}
    for attempt in sorted((paths.run / "attempts").glob("*.jsonl")):
        rows = list(_logged(attempt))
        if rows:  # steps past the resumed one were undone with the checkpoint they lacked
            begun = rows[0]["step"] + _validates(rows[0])
            by_step = {step: row for step, row in by_step.items() if step < begun}
        for row in rows:
            by_step[row["step"]] = {**by_step.get(row["step"], {}), "step": row["step"], **row["data"]}
    return [by_step[step] for step in sorted(by_step)]


def _logged(file: Path) -> Iterator[dict[str, Any]]:
    """Yield verl's lines, ``step`` and ``data``, without empty ones and without NaN, which verl writes as null."""
    for row in read_jsonl(file, strict=False):
        if data := {name: value for name, value in (row.get("data") or {}).items() if value is not None}:
            yield {"step": row["step"], "data": data}


def _validates(row: Mapping[str, Any]) -> bool:
    """Return whether a line is of a validation before training; its step is the one that training resumes from."""
    return all(name.startswith("val-") for name in row["data"])


def merge_metrics(paths: Paths) -> None:
    """Write ``metrics.jsonl`` from the attempts' files."""
    if rows := read_metrics(paths):
        write_jsonl(paths.metrics, rows)


def _prepare(recipe: GrpoRecipe, paths: Paths, overrides: list[str], best: bool = False) -> int:
    """Write the files verl reads, delete a half-written checkpoint, those past ``max_actor_ckpt_to_keep`` (not the
    ``best``) and the validations of steps that are trained again; return the number of this attempt, from 1."""
    write_text(paths.agent_loops, yaml.safe_dump(agent_loops(recipe, paths), sort_keys=False))
    write_text(paths.run / "overrides.txt", "\n".join(overrides) + "\n")
    latest = last_checkpoint(paths) or 0
    found = checkpoints(paths.checkpoints)
    for step in [step for step in found if step > latest]:
        shutil.rmtree(found.pop(step))
    for file in paths.validation.glob("*.jsonl"):
        if int(file.stem) > latest:
            file.unlink()
    # verl drops only what the same process saved (BaseCheckpointManager.previous_saved_paths)
    newest = (recipe.verl.get("trainer") or {}).get("max_actor_ckpt_to_keep")
    validation.thin(found, newest, validation.validations(paths.validation) if best else [])
    attempts = paths.run / "attempts"
    attempts.mkdir(exist_ok=True)
    number = 1 + max((int(file.stem) for file in attempts.glob("*.jsonl")), default=0)
    (attempts / f"{number:03d}.jsonl").touch()
    return number


def _follow(
    paths: Paths, attempt: int, started: float, total: int, ended: Callable[[], int | None]
) -> Iterator[TrainingStep]:
    """Yield each step as its metrics appear, until the trainer ends."""
    file, told = paths.run / "attempts" / f"{attempt:03d}.jsonl", set[int]()
    while True:
        last_look = ended() is not None
        rows = [row for row in _logged(file) if row["step"] not in told and not _validates(row)]
        for row in rows:
            told.add(row["step"])
            yield TrainingStep(row["step"], total, row["data"], time.monotonic() - started)
        if rows:
            merge_metrics(paths)
            _hold_gradients(file)
        if last_look:
            return
        time.sleep(_POLL_SECONDS)


def _hold_gradients(file: Path) -> None:
    """Stop a training that no longer learns: verl skips an update whose gradient is not finite, and never stops.

    Raises:
        StarError: the norm was null, as NaN is written, in the last steps.
    """
    name = "actor/grad_norm"
    said = [
        (row["step"], row["data"][name]) for row in read_jsonl(file, strict=False) if name in (row.get("data") or {})
    ]
    last = said[-_LOST_STEPS:]
    if len(last) == _LOST_STEPS and all(norm is None for _, norm in last):
        raise StarError(
            f"the gradient of GRPO was not finite in steps {', '.join(str(step) for step, _ in last)}, "
            "and verl skips such updates",
            "lower verl.actor_rollout_ref.actor.optim.lr, or look at these steps' data in rollouts/",
        )


def _total_steps(config: Any, paths: Paths) -> int:
    if config.trainer.total_training_steps is not None:
        return int(config.trainer.total_training_steps)
    return _rows(paths.train) // config.data.train_batch_size * config.trainer.total_epochs


def _rows(parquet: Path) -> int:
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(parquet).num_rows
    except (OSError, ValueError) as error:
        raise StarError(f"cannot read {parquet}: {error}", "give a Parquet file") from error


def _death(lines: list[str]) -> str:
    """Return what died, if Ray's log says so: a process that was killed or ran out of memory, or a node."""
    text = "\n".join(lines)
    if node := _NODE.search(text):
        return f" because a node{f' ({node[1]})' if node[1] else ''} died"
    if died := _DIED.search(text):
        places = _PLACE.findall(text)
        return f" because a {died[1]}{f' on {places[-1]}' if places else ''} died"
    if "ActorUnavailableError" in text:
        return " because a process cannot be reached: it or its node may have died"
    return ""
