"""Stage ``student``: who learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.mars.rules import TRUST
from star_rl.pipeline.stage import Context
from star_rl.records import CANDIDATES
from star_rl.run import Run

#: Conversations that the tiny student's tokenizer is trained on; more find no other phrases.
_TOKENIZER_TEXTS = 2000


def student_stage(context: Context) -> dict[str, Any]:
    """Make the tiny student, or check that the model named in the recipe can be one."""
    options = context.config["student"]
    if options["path"]:
        return given_student(options["path"])
    import pyarrow.parquet as pq

    from star_rl.student.model import StudentShape, make_student
    from star_rl.student.template import render
    from star_rl.student.tokenizer import train_tokenizer

    world = Run(context.run, context.config)
    table = pq.read_table(context.inputs["sft_set"] / "sft.parquet")
    rows = table.slice(0, _TOKENIZER_TEXTS).to_pylist()
    texts = [render(row["messages"], row.get("tools")) for row in rows]  # a student without tools has no such column
    # The signal that is trusted stays a token of its own, so that one decision is one token.
    words = sorted(TRUST.values())
    model = context.folder / "model"
    context.progress(0, 2, "tokenizer")
    slots = [f"c{place}" for place in range(1, CANDIDATES + 1)]
    slots += [f"h{place}" for place in range(1, world.prompt.together + 1)]
    names = slots if world.prompt.names == "slots" else world.items
    report = train_tokenizer(texts, names, model, words=words, **options["tokenizer"])
    context.progress(1, 2, "weights")
    parameters = make_student(model, model, StudentShape(**{"seed": context.seed, **options["shape"]}))
    return {
        "summary": f"Qwen3 of {parameters / 1e6:.2f} M parameters, vocabulary {report.vocab_size:,}, "
        f"{report.tokens_per_text:.0f} tokens a trajectory",
        "parameters": parameters,
        "vocabulary": report.vocab_size,
        "tokens_per_text": report.tokens_per_text,
    }


def given_student(path: str) -> dict[str, Any]:
    """What the manifest says of a student that exists already.

    Raises:
        StarError: the folder holds no Qwen3 model.
    """
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
