"""Run a recipe on this machine: stage after stage, one live line each, and what is done stays done."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from star_rl import locks
from star_rl.errors import StarError
from star_rl.files import write_text, writing_error
from star_rl.integrations import wandb_run
from star_rl.masking import MaskedStream, mask, open_log
from star_rl.pipeline.chain import STAGES
from star_rl.pipeline.options import Recipe
from star_rl.pipeline.stage import Stage, StageOutcome, first_of, manifest_of, run_stage, share_stage
from star_rl.progress import ProgressLine
from star_rl.run import Run

_LAST_LINES = 12  # of a stage's log, shown when it fails


@contextlib.contextmanager
def _logged(log: Path) -> Iterator[Any]:
    """Send everything that this process and its children print to ``log``; yield the terminal, with secrets masked.

    File descriptors are moved, not Python's streams: the engines print from C++ and from processes of their own.
    """
    try:
        terminal = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # a stream without a descriptor: a test, a notebook
        yield MaskedStream(sys.stdout)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with (
        io.TextIOWrapper(open_log(log), encoding="utf-8", errors="replace", line_buffering=True) as handle,
        terminal,
        contextlib.redirect_stdout(MaskedStream(handle)),
        contextlib.redirect_stderr(MaskedStream(handle)),
    ):
        for number, _ in kept:
            os.dup2(handle.fileno(), number)
        try:
            yield MaskedStream(terminal)
        finally:
            handle.flush()
            for number, before in kept:
                os.dup2(before, number)
                os.close(before)


def _failure(stage: str, log: Path, error: Exception) -> StarError:
    """A stage's failure as one message: what it was, and of an engine's the last lines of the stage's log."""
    if isinstance(error, StarError):
        return error
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    last = "\n".join(line.rsplit("\r", 1)[-1] for line in lines[-_LAST_LINES:])
    return StarError(
        mask(f"stage {stage} failed: {type(error).__name__}: {error}; the end of {log}:\n{last}\n"),
        "mend the cause and run the same command again: it goes on from here",
    )


@contextlib.contextmanager
def _only_run(run: Path) -> Iterator[None]:
    """One process per run folder: two would write the same files."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(run, error) from error
    with locks.hold(run / ".lock", f"another process works in {run}", "wait for it, stop it, or set another name="):
        yield


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, so that the engines' process groups are stopped too."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def share(source: Path, target: Path, stages: Sequence[Stage]) -> None:
    """Give a run the finished stages of another one, see :func:`star_rl.pipeline.stage.share_stage`.

    Raises:
        StarError: another process works in ``target``.
    """
    with _only_run(target):
        for stage in stages:
            share_stage(stage, source, target)


def stage_lines(stages: Sequence[Stage], folder: Path) -> list[str]:
    """Return one line a stage of a run's folder: done, begun, or not yet."""
    lines = []
    for stage in stages:
        state = "begun" if (folder / stage.name).is_dir() else "-"
        if made := manifest_of(folder / stage.name):
            state = f"done    {made['seconds']:>9.1f} s  {made['figures'].get('summary', '')}"
        lines.append(f"{stage.name:<11} {state}")
    return lines


def run(
    recipe: Recipe,
    stages: Sequence[Stage],
    start: str | None = None,
    until: str | None = None,
    same_code: bool = False,
) -> list[StageOutcome]:
    """Run the stages of a recipe in order.

    Args:
        recipe: checked options.
        stages: the chain.
        start: run this stage and all after it again, whatever is there.
        until: stop after this stage.
        same_code: take finished stages that other code made for done.

    Returns:
        How each stage ended.
    """
    again = first_of(stages, start) if start else len(stages)
    last = first_of(stages, until) if until else len(stages) - 1
    folder = Path(recipe.out) / recipe.name
    options = {**asdict(recipe), **recipe.seeds}
    outcomes = []
    whole = start is None and all((folder / stage.name / "manifest.json").exists() for stage in stages[: last + 1])
    idle = whole or not any(stage.packages for stage in stages[: last + 1])  # no stage of an engine to come
    with _only_run(folder), _terminate_as_interrupt():
        write_text(folder / "recipe.yaml", _yaml(asdict(recipe)))
        print(f"{recipe.name} -> {folder}", flush=True)
        if not idle and (server := wandb_run.server(os.environ)) and not wandb_run.reachable(server):
            print(wandb_run.offline(server, ["here"]), flush=True)
        for number, stage in enumerate(stages[: last + 1]):
            config = {name: options[name] for name in stage.config}
            seed = options[stage.seed] if stage.seed else None
            log = folder / "logs" / f"{stage.name}.log"
            with _logged(log) as terminal:
                line = ProgressLine(f"{number + 1:>2}/{last + 1} {stage.name:<11} ", terminal)
                try:
                    outcome = run_stage(stage, folder, config, seed, line, number >= again, line.say, same_code)
                except BaseException as error:
                    line.end("stopped" if isinstance(error, KeyboardInterrupt) else "FAILED")
                    if not isinstance(error, Exception) or (isinstance(error, StarError) and not start):
                        raise
                    if not isinstance(error, StarError):
                        traceback.print_exc()
                    failure = _failure(stage.name, log, error)
                    if start:  # the same command would begin anew
                        remedies = filter(None, (failure.remedy, f"leave out --from {start} then"))
                        raise StarError(failure.what, "; ".join(remedies)) from error
                    raise failure from error
                summary = outcome.manifest["figures"].get("summary", "")
                spent = "" if outcome.state == "done" else f"  {outcome.seconds:.1f} s"
                line.end(f"{outcome.state:<7} {summary}{spent}")
            outcomes.append(outcome)
    return outcomes


def run_recipe(
    recipe: Recipe,
    stages: Sequence[str] | None = None,
    *,
    start: str | None = None,
    until: str | None = None,
    same_code: bool = False,
) -> Run:
    """Check a recipe, run its stages in order and return the run. Finished stages are found done.

    Args:
        recipe: options, see :func:`star_rl.load_recipe`.
        stages: names of stages; all by default. What they read must be there.
        start: run this stage and all after it again.
        until: stop after this stage.
        same_code: take finished stages that other code made for done.

    Raises:
        StarError: an option is unusable, a stage is unknown, lacks its input or fails.
    """
    from star_rl.pipeline.check import check_machine, check_recipe

    for name in stages or ():
        first_of(STAGES, name)
    chosen = [stage for stage in STAGES if stages is None or stage.name in stages]
    last = until or chosen[-1].name
    check_recipe(recipe, last)
    check_machine(recipe, last)
    run(recipe, chosen, start, until, same_code)
    return Run(Path(recipe.out) / recipe.name, asdict(recipe))


def _yaml(options: dict[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(options))
