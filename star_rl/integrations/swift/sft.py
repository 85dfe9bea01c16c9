"""Run supervised fine-tuning by ms-swift: write its YAML, start it, watch it, return a checkpoint.

ms-swift runs in processes of its own with its output in `swift.log`, see :mod:`star_rl.integrations.processes`; nothing
of it is imported here, so this module loads at once.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from star_rl import locks
from star_rl.errors import StarError
from star_rl.integrations import copy_tokenizer, processes, wandb_run
from star_rl.integrations.swift.recipe import PLUGIN, arguments, compose
from star_rl.progress import Progress

#: Seconds without a line of `logging.jsonl` after which a run counts as hung, or ten of its intervals if longer.
SILENCE = 1800.0
_LOST_LINES = 3  # logged in a row whose loss is not finite


@dataclass(frozen=True)
class SftResult:
    """A finished run.

    Attributes:
        checkpoint: folder that transformers, vLLM and verl load: weights, config, tokenizer, chat template.
        steps: optimizer steps, those before a resume included.
        loss: the last logged training loss (mean per trained token), or None if none was logged.
        rows: rows trained on.
        dropped_long: rows taken out because they exceed `max_length` tokens.
        tokens_per_row: mean length, tokens.
        seconds: wall-clock seconds of this call.
        resumed_from: step of the checkpoint that was resumed, 0 for a fresh start.
    """

    checkpoint: Path
    steps: int
    loss: float | None
    rows: int
    dropped_long: int
    tokens_per_row: float
    seconds: float
    resumed_from: int


def command(config: Mapping[str, Any], file: Path) -> list[str]:
    """Return the command line: ms-swift's script for one process, its launcher (torchrun) for several."""
    env = {**config["ENV"], **os.environ}
    if env.get("NPROC_PER_NODE") or env.get("NNODES"):
        return [sys.executable, "-m", "swift.cli.main", "sft", str(file)]
    spec = find_spec("swift")
    if spec is None or spec.origin is None:
        raise StarError("ms-swift is not installed", "pip install -e '.[cpu]' (or '.[gpu]')")
    # `swift sft` would first import half of itself (4 s) and start this script in a process that outlives it
    return [sys.executable, str(Path(spec.origin).parent / "cli" / "sft.py"), *arguments(config)]


def newest_checkpoint(out: Path) -> tuple[Path | None, int]:
    """Return the newest whole `checkpoint-N` in `out` and its step; (None, 0) if no checkpoint exists.

    The trainer writes `trainer_state.json` last. A folder without it is incomplete and is deleted, because the trainer
    would resume from it.
    """
    best: tuple[Path | None, int] = (None, 0)
    for folder in sorted(out.glob("checkpoint-*")):
        try:
            step = int(json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        if step > best[1]:
            best = (folder, step)
    return best


def finished(checkpoint: Path, config: Mapping[str, Any]) -> bool:
    """Return whether `checkpoint` is the end of the run that `config` asks for (the trainer would add a step)."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    steps = int(config.get("max_steps") or -1)
    if steps > 0:
        return int(state["global_step"]) >= steps
    same_epochs = float(state["num_train_epochs"]) >= float(config.get("num_train_epochs") or 3)
    return same_epochs and int(state["global_step"]) >= int(state["max_steps"])


def _tokenizer(model: str | Path) -> Any:
    """Load the `tokenizers.Tokenizer` of a model's folder or hub id."""
    from tokenizers import Tokenizer

    if (file := Path(model) / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(file))
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(model)).backend_tokenizer
    except (OSError, ValueError, AttributeError) as e:
        raise StarError(
            f"no tokenizer of {model} to count tokens with ({str(e).splitlines()[0]})",
            "download the model and give its folder, or fix the access to the hub",
        ) from e


def sieve_long_rows(data: Path, model: str | Path, max_length: int, kept: Path) -> tuple[Path, int, int, float]:
    """Drop the rows over `max_length` tokens, which ms-swift would drop silently.

    Returns:
        (the file to train on: `data` itself if nothing was dropped, else `kept`; rows kept; rows dropped; mean length)

    Raises:
        StarError: the file is not an SFT set, the model's tokenizer is unavailable, or no row is left.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from star_rl.student.template import render

    if not data.is_file():
        raise StarError(f"no SFT set {data}", "build it first, or check the path")
    try:
        table = pq.read_table(data)
    except pa.ArrowInvalid as e:
        raise StarError(f"{data} is no Parquet file ({e})", "build the SFT set again") from e
    if "messages" not in table.column_names or not pa.types.is_list(table.schema.field("messages").type):
        raise StarError(f"{data} has no column 'messages' of turns", "build it with the chain's stage sft_set")
    tokenizer = _tokenizer(model)
    lengths: list[int] = []
    for batch in table.to_batches(max_chunksize=512):
        texts = [render(row["messages"], row.get("tools")) for row in batch.to_pylist()]
        lengths += [len(e.ids) - 1 for e in tokenizer.encode_batch(texts, add_special_tokens=False)]  # the last newline
    fits = [n <= max_length for n in lengths]
    rows = sum(fits)
    if not rows:
        raise StarError(f"no row of {data} fits into max_length={max_length} tokens", "raise max_length")
    if rows < len(fits):
        pq.write_table(table.filter(pa.array(fits)), kept)
        data = kept
    return data, rows, len(fits) - rows, sum(n for n, f in zip(lengths, fits, strict=True) if f) / rows


def run_sft(
    recipes: Sequence[str | Path | Mapping[str, Any]],
    *,
    data: Path,
    out: Path,
    model: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> SftResult:
    """Run ms-swift to the end; resume from the newest checkpoint in `out` if there is one.

    Args:
        recipes, data, model: see :func:`compose`.
        out: folder of the run: `sft.yaml` (run it by hand with `swift sft sft.yaml`), `swift.log`, `swift/` with
            ms-swift's checkpoints and `logging.jsonl`, and in the end `final/`.
        env: environment of the process on top of the recipe's `ENV` and of this process.
        progress: called after every logged step.

    Raises:
        StarError: a bad recipe, model or data set; or ms-swift failed: then with the last lines of its log.
    """
    started, out = time.monotonic(), out.resolve()
    work, final, file, log = out / "swift", out / "final", out / "sft.yaml", out / "swift.log"
    work.mkdir(parents=True, exist_ok=True)
    with locks.hold(out / "lock", f"another process trains in {out}", "wait for it, or choose another folder"):
        processes.end(out)  # workers of a killed run, which would write into the same checkpoints
        checkpoint, resumed = newest_checkpoint(work)
        config = compose(recipes, data=data.resolve(), out=work, model=model, resume=checkpoint)
        curves = wandb_run.variables(out, {**config["ENV"], **os.environ}, name=f"{out.parent.name}-{out.name}")
        config["ENV"] |= curves  # also for who runs the file by hand
        longest = int(config.get("max_length") or sys.maxsize)
        kept, rows, dropped, mean_length = sieve_long_rows(
            Path(config["dataset"][0]), config["model"], longest, out / "train.parquet"
        )
        config["dataset"] = [str(kept)]
        file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
        steps, loss = 0, None
        if checkpoint is None or not finished(checkpoint, config):
            steps, loss = _watch(config, file, log, work, {**curves, **(env or {})}, progress)
        last, step = newest_checkpoint(work)
        if last is None:
            raise StarError(f"ms-swift ended without a checkpoint in {work}", f"read {log}")
        export(last, config, final)
        return SftResult(
            checkpoint=final,
            steps=max(step, steps),
            loss=loss,
            rows=rows,
            dropped_long=dropped,
            tokens_per_row=mean_length,
            seconds=time.monotonic() - started,
            resumed_from=resumed,
        )


def _watch(
    config: Mapping[str, Any],
    file: Path,
    log: Path,
    work: Path,
    env: Mapping[str, str],
    progress: Progress | None,
) -> tuple[int, float | None]:
    """Run ms-swift and follow `logging.jsonl`; return (last step, last loss)."""
    journal = work / "logging.jsonl"
    at = journal.stat().st_size if journal.exists() else 0
    step, loss, sound, lost, pulse = 0, None, 0, 0, _Pulse()
    variables = {**config["ENV"], **os.environ, **env}
    with processes.running(command(config, file), variables, log.parent, log, cwd=Path.cwd()) as child:
        while True:
            ended = child.poll() is not None
            if journal.exists():
                with journal.open("rb") as lines:
                    lines.seek(at)
                    for line in lines:
                        if not line.endswith(b"\n"):
                            break
                        at += len(line)
                        seen = _logged(line)
                        if seen:
                            step, total, now = seen
                            pulse.beat(time.monotonic())
                            if now is not None:
                                loss, lost = now, 0 if math.isfinite(now) else lost + 1
                                sound = sound if lost else step
                            if progress:
                                progress(step, total, "" if loss is None else f"loss {loss:.3f}")
                        if lost == _LOST_LINES:
                            raise StarError(
                                f"the loss of SFT is {loss} since step {sound}, see {journal}",
                                "lower learning_rate, or look at the data; checkpoints past that step are spoilt",
                            )
            if ended:
                break
            if pulse.silent(time.monotonic()):
                raise StarError(
                    f"ms-swift hangs: no line in {journal} for {pulse.limit():.0f} s; the end of {log}:\n"
                    f"{processes.tail(log)}",
                    "look at the node's GPUs and network, then run again: it resumes",
                )
            time.sleep(0.3)
        code = child.returncode
    if code:
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise StarError(
            f"ms-swift {how}; the end of {log}:\n{processes.tail(log)}",
            "mend what it names, then run again: it resumes",
        )
    return step, loss


class _Pulse:
    """Detects a run that hangs by the time since its last line; its pace is known from the second line on."""

    def __init__(self) -> None:
        self._last, self._lines, self._longest = 0.0, 0, 0.0

    def beat(self, now: float) -> None:
        if self._lines:
            self._longest = max(self._longest, now - self._last)
        self._last, self._lines = now, self._lines + 1

    def limit(self) -> float:
        return max(SILENCE, 10 * self._longest)

    def silent(self, now: float) -> bool:
        return self._lines > 1 and now - self._last > self.limit()


def _logged(line: bytes) -> tuple[int, int, float | None] | None:
    """Return (step, total, loss) of a line of `logging.jsonl`, None for its other lines."""
    try:
        row = json.loads(line)
        step, total = map(int, row["global_step/max_steps"].split("/"))
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return step, total, float(row["loss"]) if "loss" in row else None


def export(checkpoint: Path, config: Mapping[str, Any], out: Path) -> None:
    """Export a trainer's checkpoint to `out`, a folder that transformers, vLLM and verl load.

    Full fine-tuning: weights and configuration are copied without optimizer state, the tokenizer byte for byte from the
    model that was trained. LoRA: the adapter is merged by `swift export` first.

    Raises:
        StarError: merging failed.
    """
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    if (checkpoint / "adapter_config.json").is_file():
        argv = [sys.executable, "-m", "swift.cli.export", "--adapters", str(checkpoint), "--merge_lora", "true",
                "--output_dir", str(fresh), "--external_plugins", str(PLUGIN)]  # fmt: skip
        log = out.with_name("export.log")
        with processes.running(argv, {**config["ENV"], **os.environ}, log.parent, log, cwd=Path.cwd()) as child:
            code = child.wait()
        if code:
            raise StarError(
                f"merging {checkpoint} failed; the end of {log}:\n{processes.tail(log)}", "mend what it names"
            )
    else:
        fresh.mkdir(parents=True)
        for source in sorted(checkpoint.iterdir()):
            if source.suffix in {".safetensors", ".json", ".jinja", ".txt"} and source.name not in {
                "trainer_state.json",
                "args.json",
            }:
                shutil.copy2(source, fresh / source.name)
    copy_tokenizer(config["model"], fresh)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
