"""Stage ``student``: who learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from star_rl.errors import StarError
from star_rl.files import read_json, write_json, write_text
from star_rl.mars.rules import TRUST
from star_rl.pipeline.stage import Context
from star_rl.records import CANDIDATES
from star_rl.run import Run
from star_rl.student.template import TURN_FOOTER, chat_template

#: Conversations that the tiny student's tokenizer is trained on; more find no other phrases.
_TOKENIZER_TEXTS = 2000
#: Tokens that bound a turn; a tokenizer that spells them out would let any text end one.
CHATML = ("<|im_start|>", TURN_FOOTER)
_OURS = ("chat_template.jinja", "tokenizer_config.json")


def student_stage(context: Context) -> dict[str, Any]:
    """Make the tiny student, or check that the model named in the recipe can be one; see :func:`given_student`."""
    options = context.config["student"]
    if path := options["path"]:
        kind, how = given_student(path), "as it is"
        if kind not in (None, "qwen3"):
            with_our_template(Path(path), context.folder / "model")
            how = f"a {kind} model with star_rl's chat template"
        return {"summary": f"{path}, {how}", "path": path}
    import pyarrow.parquet as pq

    from star_rl.student.model import StudentShape, make_student
    from star_rl.student.template import render
    from star_rl.student.tokenizer import train_tokenizer

    world = Run(context.run, context.config)
    table = pq.read_table(context.inputs["sft_set"] / "sft.parquet")
    rows = table.slice(0, _TOKENIZER_TEXTS).to_pylist()
    texts = [render(row["messages"], row.get("tools")) for row in rows]  # a student without tools has no such column
    # The signal that is trusted, or the category that is liked, stays a token of its own: one decision is one token.
    words = sorted(TRUST.values())
    if world.prompt.scope == "rank":
        words = sorted({category for item in world.items.values() for category in item.categories})
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


def given_student(path: str) -> str | None:
    """Return the `model_type` of a student that exists already; None for a hub id, which is loaded as a Qwen3.

    Raises:
        StarError: the folder holds no model, or one of another family whose tokenizer lacks ChatML's tokens.
    """
    folder = Path(path)
    if not folder.exists() and not path.startswith((".", "/")):
        return None
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise StarError(f"student.path={path} holds no {name}", "name a Hugging Face model folder, or a hub id")
    kind: str = read_json(folder / "config.json").get("model_type", "")
    if kind != "qwen3":
        added = {token["content"] for token in read_json(folder / "tokenizer.json").get("added_tokens", ())}
        if missing := [token for token in CHATML if token not in added]:
            raise StarError(
                f"student.path={path} is a {kind} model whose tokenizer has no token {missing[0]}",
                "star_rl writes ChatML: name a Qwen3 model, or one whose tokenizer has <|im_start|> and <|im_end|>",
            )
    return kind


def with_our_template(model: Path, out: Path) -> None:
    """Make `out` a model folder with the weights of `model` (links) and the project's chat template.

    A turn ends with `<|im_end|>` for whoever serves it, whatever ended a text in pretraining.
    """
    out.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        if file.is_file() and file.name not in _OURS:
            (out / file.name).unlink(missing_ok=True)
            (out / file.name).symlink_to(file.resolve())
    config = read_json(model / "tokenizer_config.json") if (model / "tokenizer_config.json").is_file() else {}
    config.pop("chat_template", None)
    padding = config.get("pad_token") or TURN_FOOTER
    write_json(out / "tokenizer_config.json", {**config, "eos_token": TURN_FOOTER, "pad_token": padding})
    write_text(out / "chat_template.jinja", chat_template())


def student_path(context: Context) -> str | Path:
    """Return the folder or hub id of the student's first weights."""
    made = context.inputs["student"] / "model"
    return made if made.is_dir() else context.config["student"]["path"]
