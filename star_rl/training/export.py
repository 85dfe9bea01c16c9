"""``star-rl export``: a trained student as a Hugging Face folder with a model card, which vLLM serves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import read_json, write_json, write_text
from star_rl.pipeline.stage import digest, manifest_of

STAGES = ("grpo", "sft")
_METHOD = {"grpo": "star", "sft": "sft"}
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")


def export(run: str | Path, out: str | Path, stage: str = "grpo") -> Path:
    """Write ``out`` with weights, tokenizer, chat template, decoding defaults, ``README.md`` and ``star_rl.json``.

    Args:
        run: folder of a run.
        out: folder to make; one made by an earlier export is replaced.
        stage: whose checkpoint, ``grpo`` or ``sft``.

    Raises:
        StarError: the stage has not been run, its checkpoint is not whole, or ``out`` holds something else.
    """
    run, out = Path(run), Path(out)
    if stage not in STAGES:
        raise StarError(f"stage {stage!r} has no checkpoint", f"choose one of {', '.join(STAGES)}")
    if not run.is_dir():
        raise StarError(f"there is no run folder {run}", "name one such as runs/quickstart")
    if manifest_of(run / stage) is None:
        raise StarError(f"{run} has not finished stage {stage}", f"star-rl run .. --until {stage}, or --stage sft")
    source = run / stage / "final"
    check(source)
    if out.exists() and not (out / "star_rl.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise StarError(f"{out} exists and is no earlier export", "name another folder")
    about = describe(run, stage)
    partial = out.with_name(f".{out.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, partial)
        _decoding(partial, about["decoding"])
        write_json(partial / "star_rl.json", about)
        write_text(partial / "README.md", card(about))
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StarError(
            f"cannot write {out} ({error.strerror or error})", "free space or name another folder"
        ) from error
    return out


def check(folder: Path) -> None:
    """That a checkpoint is whole: every file that its index names, configuration, tokenizer.

    Raises:
        StarError: something is missing.
    """
    for name in _NEEDED:
        if not (folder / name).is_file():
            raise StarError(f"{folder} holds no {name}", "run the stage again (--from)")
    index = folder / "model.safetensors.index.json"
    shards = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise StarError(f"{folder} lacks weights: {', '.join(missing[:3])}", "run the stage again (--from)")


def describe(run: Path, stage: str) -> dict[str, Any]:
    """Where a checkpoint comes from, as plain data: recipe, data, fingerprints, training, evaluation."""
    from omegaconf import OmegaConf

    recipe: Any = OmegaConf.to_container(OmegaConf.load(run / "recipe.yaml")) if (run / "recipe.yaml").is_file() else {}
    figures = {
        name: (manifest_of(run / name) or {}).get("figures", {})
        for name in ("tables", "tasks", "student", "sft_set", "sft", "grpo_set", "grpo")
    }
    manifest = manifest_of(run / stage) or {}
    store = run / "evidence" / "store" / "manifest.json"
    base = (recipe.get("student") or {}).get("path")
    evaluate = recipe.get("evaluate") or {}
    return {
        "run": run.resolve().name,
        "stage": stage,
        "base": base or "a Qwen3 of the run's own, trained from random weights",
        "base_model": base,
        "source": (recipe.get("source") or {}).get("name", "unknown"),
        "seed": recipe.get("seed"),
        "train_seed": (manifest.get("key") or {}).get("seed"),
        "finished": manifest.get("finished"),
        "versions": (manifest.get("key") or {}).get("versions", {}),
        "fingerprints": {
            "visible interactions": figures["tasks"].get("visible_fingerprint"),
            "evidence store": read_json(store).get("fingerprint") if store.is_file() else None,
        },
        "sft": {key: figures["sft"].get(key) for key in ("rows", "steps", "loss")},
        "grpo": {key: figures["grpo"].get(key) for key in ("steps", "reward", "first5", "last5")}
        if stage == "grpo"
        else None,
        "grpo_set": {key: figures["grpo_set"].get(key) for key in ("total", "taken")} if stage == "grpo" else None,
        "tools": recipe.get("tools") or {},
        "decoding": {
            "temperature": evaluate.get("temperature", 0.7),
            "top_p": evaluate.get("top_p", 0.95),
        },
        "method": _METHOD[stage],
        "evaluation": _evaluation(run, stage),
    }


def _evaluation(run: Path, stage: str) -> Any:
    """The run's evaluation, unless it is of an earlier checkpoint of this stage."""
    scored, trained = manifest_of(run / "evaluate"), manifest_of(run / stage)
    if scored is None or trained is None or scored["key"]["inputs"].get(stage) != digest(trained):
        return None
    return read_json(run / "evaluate" / "metrics.json")


def _decoding(folder: Path, options: Mapping[str, Any]) -> None:
    """Decoding as at the evaluation becomes the default of whoever serves the folder."""
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_json(file, {**config, "do_sample": options["temperature"] > 0, **options})


def card(about: Mapping[str, Any]) -> str:
    """The model card in Markdown, with the front matter that model hubs read."""
    front = ["---", "license: apache-2.0", "library_name: transformers", "pipeline_tag: text-generation"]
    if about["base_model"]:
        front.append(f"base_model: {json.dumps(about['base_model'])}")
    lines = [*front, "tags: [recommendation, star-rl]", "---", "", f"# {about['run']} ({about['stage']})", ""]
    lines += [
        "One language model that recommends the way a team of agents does: it plans, looks up neighbours with two",
        "tools, reflects, and ranks the candidates of its prompt.",
        "",
        "| | |",
        "| --- | --- |",
        f"| base | {about['base']} |",
        f"| data | {about['source']}, seed {about['seed']}; of training {about['train_seed']} |",
        *(f"| {name} | `{value}` |" for name, value in about["fingerprints"].items() if value),
        f"| SFT | {_pairs(about['sft'])} |",
    ]
    if about["grpo"]:
        first, last = _number(about["grpo"].get("first5")), _number(about["grpo"].get("last5"))
        lines += [
            f"| reward | `{about['grpo'].get('reward')}` |",
            f"| GRPO | {about['grpo'].get('steps')} steps on {_pairs(about['grpo_set'] or {})}; mean reward "
            f"{first} in the first five, {last} in the last |",
        ]
    lines += [
        f"| decoding | temperature {about['decoding']['temperature']:g}, top_p {about['decoding']['top_p']:g} |",
        f"| versions | {_pairs(about['versions'])} |",
        "",
        "## Evaluation",
        "",
        *_table(about),
        "## Use",
        "",
        "```",
        "vllm serve FOLDER",
        "```",
        "",
        "The tools' answers come from the run's evidence store: the policy loop of `star_rl.policy` drives the",
        "conversation. Outside a loop with these tools the model has no neighbours to look up.",
        "",
    ]
    return "\n".join(lines)


def _table(about: Mapping[str, Any]) -> list[str]:
    scored = about["evaluation"]
    if not scored:
        return ["This checkpoint was not evaluated.", ""]
    lines = [
        f"{scored['n']} held-out tasks of 20 candidates, in percent; HR_avg with a 95 % bootstrap interval.",
        "",
        "| method | HR@1 | HR@3 | HR@5 | HR_avg | well formed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in scored["methods"]:
        name = f"**{row['name']}** (this model)" if row["name"] == about["method"] else row["name"]
        formed = row.get("format_rate")
        shown = "" if formed is None else f"{100 * formed:.1f}"
        lines.append(
            f"| {name} | {row['hr1']:.1f} | {row['hr3']:.1f} | {row['hr5']:.1f} | {row['hr_avg']:.1f} "
            f"({row['hr_avg_low']:.1f} to {row['hr_avg_high']:.1f}) | {shown} |"
        )
    if about["source"] == "synthetic":
        lines += ["", "The data are synthetic: no claim about recommendation follows from this table."]
    return [*lines, ""]


def _pairs(values: Mapping[str, Any]) -> str:
    shown = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            shown.append(f"{key} ({_pairs(value)})")
        elif value is not None:
            shown.append(f"{key} {_number(value)}")
    return ", ".join(shown) or "unknown"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
