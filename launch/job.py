"""What a submitted job runs on the cluster: the preflight, then the recipe, stage after stage.

``python -m star_rl.launch.job`` reads its specification from the module that was sent along (:func:`parcel`):
``recipe`` (YAML text), ``start``, ``until``, ``needs``.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

try:
    import star_rl
    from star_rl.errors import StarError
    from star_rl.integrations import gpus, wandb_run
    from star_rl.launch import preflight, secret
    from star_rl.masking import MaskedStream
    from star_rl.pipeline.stage import Context, Stage
    from star_rl.plan.disk import still_to_write
    from star_rl.run import Run
except ModuleNotFoundError as error:  # the first line of a job whose Python is not the environment's
    raise SystemExit(
        f"star-rl: {sys.executable} of the cluster has no module {error.name} - "
        "name the environment's Python: star-rl submit --python /path/to/python"
    ) from None

_SPEC = "job.json"
#: Compiled parts, without suffix; the C file beside each is what it is built of.
PARTS = ("star_rl/neighbours/_kernel", "star_rl/sources/_scan")


def parcel(folder: Path, spec: str, held: secret.Secrets) -> dict[str, Any]:
    """Write a job's specification and its variables as a module below ``folder``.

    Returns:
        What Ray's runtime environment needs to send it.
    """
    module = folder / secret.MODULE
    module.mkdir()
    (module / "__init__.py").touch()
    (module / _SPEC).write_text(spec, encoding="utf-8")
    runtime: dict[str, Any] = {"py_modules": [str(module)]}
    if held.names:
        pad, content = held.split()
        (module / secret.FILE).write_bytes(content)
        runtime |= {"env_vars": {secret.PAD: pad}, "worker_process_setup_hook": "star_rl.launch.secret.setup"}
    return runtime


def guarded(stages: tuple[Stage, ...], needs: preflight.Needs) -> tuple[Stage, ...]:
    """The chain with a look at the store on every node before GRPO starts on them, and SFT's GPUs held in Ray."""

    def sft(body: Any, context: Context) -> Any:
        with gpus.hold(needs.driver_gpus):
            return body(context)

    def grpo(body: Any, context: Context) -> Any:
        scenario, fingerprint = Run(context.run, context.config).origin
        store = str(context.inputs["evidence"] / "store")
        looked = dataclasses.replace(
            needs, model="", disk=0, wandb="", store=store, scenario=scenario, fingerprint=fingerprint
        )
        print("\n".join(preflight.run(looked)), flush=True)
        return body(context)

    around = {"sft": sft, "grpo": grpo}
    return tuple(
        dataclasses.replace(stage, body=partial(around[stage.name], stage.body)) if stage.name in around else stage
        for stage in stages
    )


def installed(name: str = "star-rl") -> Iterator[Path]:
    """Folders that hold the installed project: site-packages, or the checkout of an editable installation."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return
    url = json.loads(found.read_text("direct_url.json") or "{}").get("url", "")
    if url.startswith("file://"):
        yield Path(unquote(urlsplit(url).path))
    yield Path(str(found.locate_file("")))


def adopt(root: Path, sources: Iterator[Path] | None = None) -> list[str]:
    """Copy the compiled parts of the node's image into the tree at ``root``, if they are built of the same sources.

    The tree that was sent shadows the installed project, and holds no compiled part: one of the submitter's machine may
    want another Python or libc.

    Returns:
        The parts that stay absent; the slower path in Python replaces them.
    """
    suffix, absent = sysconfig.get_config_var("EXT_SUFFIX"), []
    folders = [folder for folder in (installed() if sources is None else sources) if folder != root]
    for part in PARTS:
        target = root / f"{part}{suffix}"
        for folder in folders:
            code, library = folder / f"{part}.c", folder / f"{part}{suffix}"
            same = code.is_file() and code.read_bytes() == (root / f"{part}.c").read_bytes()
            if same and library.is_file() and not target.exists():
                shutil.copy2(library, target)
        if not target.exists():
            absent.append(part)
    return absent


def run(spec: dict[str, Any]) -> None:
    """Run a submitted recipe.

    Raises:
        StarError: the cluster is not ready, or a stage refuses something.
    """
    from star_rl.pipeline import chain, runner
    from star_rl.pipeline.check import check_recipe
    from star_rl.pipeline.recipe import load

    needs = preflight.Needs(**spec["needs"])
    for part in adopt(Path(star_rl.__file__).parents[1]):
        print(f"{part} is not built in this image: pip install -e . builds it", flush=True)
    print("preflight: looking at the cluster's nodes", flush=True)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "recipe.yaml"
        file.write_text(spec["recipe"], encoding="utf-8")
        recipe = load(file)
    folder = Path(recipe.out) / recipe.name
    left = preflight.within(10.0, recipe.out, lambda: still_to_write(needs.disk, folder))
    needs = dataclasses.replace(needs, disk=left, wandb=wandb_run.server(os.environ))
    print("\n".join(preflight.run(needs)), flush=True)
    check_recipe(recipe, spec.get("until"))
    runner.run(recipe, guarded(chain.STAGES, needs), spec.get("start"), spec.get("until"))


def main() -> int:
    """Run the job that was sent; exit codes as those of ``star-rl``."""
    secret.load()
    sys.stdout, sys.stderr = MaskedStream(sys.stdout), MaskedStream(sys.stderr)
    try:
        run(json.loads((secret.sent_folder() / _SPEC).read_text(encoding="utf-8")))
    except StarError as error:
        print(f"star-rl: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("star-rl: stopped; star-rl resume goes on from here", file=sys.stderr, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
