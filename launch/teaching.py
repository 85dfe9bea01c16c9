"""Stages ``teach``, ``sft_set`` and ``student``: the teacher's runs, what is learnt from them, and who learns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_builders.sft import SftOptions, build_sft
from launch.world import LACKING, World
from star_rl.errors import StarError
from star_rl.mars import RuleBackend, RuleOptions, Team, TeamOptions, identity_of, strength_of, teach
from star_rl.mars.rules import TRUST
from star_rl.prompts import STUDENT_VERSION
from star_rl.stage import Context

#: Conversations that the tiny student's tokenizer is trained on; more find no other phrases.
_TOKENIZER_TEXTS = 2000


def team_of(world: World, config: Mapping[str, Any], seed: int) -> Team:
    """The teacher of a recipe, lacking what its SFT setting lacks."""
    lacks = LACKING.get(config["sft_set"]["setting"], "")
    options = dict(config["teacher"]["options"])
    rules = RuleOptions(**{"seed": seed, **_only(options.pop("rules", {}), RuleOptions, "teacher.options.rules")})
    team = {"top": world.prompt.top, **options, **({lacks: False} if lacks else {})}
    backend = RuleBackend(rules, strength_of(world.store))
    return Team(
        backend, lambda case: world.toolbox(case.candidates), TeamOptions(**_only(team, TeamOptions, "teacher.options"))
    )


def _only(values: Mapping[str, Any], shape: Any, where: str) -> dict[str, Any]:
    """``values``, held to the fields of a dataclass."""
    for name in values:
        if name not in shape.__dataclass_fields__:
            raise StarError(f"{where}.{name} is not known", f"one of {', '.join(shape.__dataclass_fields__)}")
    return dict(values)


def teach_stage(context: Context) -> dict[str, Any]:
    """Run the teacher over the training tasks; ``runs.jsonl`` holds one record a run."""
    world = World(context.run, context.config)
    options = context.config["teacher"]
    tasks = world.tasks("train")[: options["tasks"]]
    team = team_of(world, context.config, context.seed)
    identity = identity_of(team, {"student": STUDENT_VERSION}, "rules", world.store.fingerprint)
    account = asyncio.run(
        teach(tasks, team, world.case, context.folder, identity, passes=options["passes"], progress=context.progress)
    )
    hit = account.hits / max(1, account.ranked)
    return {
        "summary": f"{account.done:,} runs, hit@1 {hit:.1%}, {account.corrected:,} sent back, "
        f"{account.tool_calls:,} tool calls, {sum(account.failed.values())} failed",
        **account.figures(),
    }


def sft_set_stage(context: Context) -> dict[str, Any]:
    """Filter the runs to those that hit, and write them as ms-swift parquet with an audit and a card."""
    world = World(context.run, context.config)
    options = context.config["sft_set"]
    audit = build_sft(
        context.inputs["teach"] / "runs.jsonl",
        world.history,
        world.items,
        context.folder,
        SftOptions(
            setting=options["setting"],
            prompt=world.prompt,
            per_task=options["per_task"],
            limit=options["limit"] or 0,
            max_tokens=options["max_tokens"],
            seed=context.seed,
        ),
    )
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in audit["dropped"].items() if count)
    return {"summary": f"{audit['kept']:,} of {audit['read']:,} runs kept (dropped: {reasons or 'none'})", **audit}


def student_stage(context: Context) -> dict[str, Any]:
    """Make the tiny student, or check that the model named in the recipe can be one."""
    options = context.config["student"]
    if options["path"]:
        return _given(options["path"])
    import pyarrow.parquet as pq

    from star_rl.student.model import StudentShape, make_student
    from star_rl.student.template import render
    from star_rl.student.tokenizer import train_tokenizer

    world = World(context.run, context.config)
    table = pq.read_table(context.inputs["sft_set"] / "sft.parquet", columns=["messages", "tools"])
    rows = table.slice(0, _TOKENIZER_TEXTS).to_pylist()
    texts = [render(row["messages"], row["tools"]) for row in rows]
    # The signal that is trusted stays a token of its own, so that one decision is one token.
    words = sorted(TRUST.values())
    model = context.folder / "model"
    context.progress(0, 2, "tokenizer")
    report = train_tokenizer(texts, world.items, model, words=words, **options["tokenizer"])
    context.progress(1, 2, "weights")
    parameters = make_student(model, model, StudentShape(**{"seed": context.seed, **options["shape"]}))
    return {
        "summary": f"Qwen3 of {parameters / 1e6:.2f} M parameters, vocabulary {report.vocab_size:,}, "
        f"{report.tokens_per_text:.0f} tokens a trajectory",
        "parameters": parameters,
        "vocabulary": report.vocab_size,
        "tokens_per_text": report.tokens_per_text,
    }


def _given(path: str) -> dict[str, Any]:
    folder = Path(path)
    if folder.exists() or path.startswith((".", "/")):
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise StarError(f"student.path={path} holds no {name}", "name a Hugging Face model folder, or a hub id")
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind != "qwen3":
            raise StarError(f"student.path={path} is a {kind} model", "STAR's chat form is Qwen3's: name a Qwen3 model")
    return {"summary": f"{path}, as it is", "path": path}


def student_path(context: Context) -> str | Path:
    """Folder or hub id of the student's first weights."""
    return context.config["student"]["path"] or context.inputs["student"] / "model"
