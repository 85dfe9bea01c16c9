"""A stage is a pure step: input files + configuration + seed + code -> output files + a manifest.

A stage is *done* when its folder holds a ``manifest.json`` whose key equals today's key. The key holds what decides the
output and nothing else: the stage's options, its inputs' content, the seed, and the source code it runs. The manifest
is written last, so a killed stage is never taken for a finished one. An interrupted stage resumes under the same key,
and also under other code: a mended bug must not cost the steps before it. Under another key a costly stage's folder is
moved aside, as ``--from`` does with any stage; other folders are emptied. Package versions are recorded and reported,
but decide nothing.
"""

from __future__ import annotations

import copy
import importlib.metadata
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import star_rl
from star_rl.errors import StarError
from star_rl.files import fingerprint, read_json, sha256, write_json, writing_error
from star_rl.progress import Progress

FORMAT = 1
MANIFEST = "manifest.json"
_KEY = ".key.json"
#: Between a stage's name and the time in the name of a folder that was moved aside.
ASIDE = ".old-"
#: Files larger than this are recorded by size only: hashing a checkpoint costs more than it tells.
_HASH_LIMIT = 256 << 20
_ROOT = Path(star_rl.__file__).resolve().parents[1]
_SOURCES = (".py", ".c", ".jinja")


@dataclass(slots=True)
class Context:
    """What a stage is given.

    Attributes:
        folder: where the stage writes; it exists.
        config: the stage's own part of the recipe, a copy: what the body does to it reaches neither the manifest's key
            nor another stage.
        seed: of the stage, see :class:`Stage`; 0 if it draws nothing.
        inputs: folders of the stages it reads, by name.
        run: the run's folder.
        progress: told how far the stage is.
        say: takes a line for the terminal.
    """

    folder: Path
    config: Any
    seed: int
    inputs: Mapping[str, Path]
    run: Path
    progress: Progress
    say: Callable[[str], None] = print


#: A stage's body. What it returns goes into the manifest: counts, what was dropped and why, figures. ``incomplete``,
#: if it is there and true, lets later stages go on, and the next call resume this one.
Body = Callable[[Context], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A named step of a recipe.

    Attributes:
        name: also its folder in the run.
        body: the work.
        reads: names of the stages whose files it reads.
        config: the recipe's sections it depends on.
        files: outputs to be hashed into the manifest (globs relative to the folder).
        code: modules and packages of this project whose source decides the output, such as ``star_rl.mars``.
        packages: distributions whose versions belong into the manifest.
        keep: globs of files that outlive a change of configuration (a cache that names its own keys).
        decides: the part of the configuration that decides what comes out; the rest is speed, memory and bookkeeping.
        aside: its output is costly: under another key the folder is moved to ``<name>.old-<time>``, not emptied.
        sources: what the configuration only names (an overlay, a reward's code): name -> digest of the content, so that
            an edited file is not taken for what was trained with.
        seed: the recipe's option that seeds it, ``seed`` or ``train_seed``; None if nothing is drawn.
    """

    name: str
    body: Body
    reads: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    files: tuple[str, ...] = ("*.parquet", "*.json", "*.jsonl")
    code: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    decides: Callable[[Any], Any] | None = None
    aside: bool = False
    sources: Callable[[Any], Mapping[str, str]] | None = None
    seed: str | None = "seed"


@dataclass(slots=True)
class StageOutcome:
    """How a stage ended: ``state`` is ``done`` (found), ``ran`` or ``resumed``."""

    name: str
    state: str
    seconds: float
    manifest: dict[str, Any] = field(default_factory=dict)


def first_of(stages: Sequence[Stage], name: str) -> int:
    """Return the index of a stage by name.

    Raises:
        StarError: there is no such stage.
    """
    names = [stage.name for stage in stages]
    if name not in names:
        raise StarError(f"there is no stage {name!r}", f"the stages are {', '.join(names)}")
    return names.index(name)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions; ``absent`` where a distribution is not installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def source_digest(name: str) -> str:
    """Hash the source files of a module or package of this project; nothing is imported.

    Raises:
        StarError: there is no such module.
    """
    base = _ROOT.joinpath(*name.split("."))
    module = base.with_suffix(".py")
    files = [module] if module.is_file() else sorted(file for file in base.rglob("*") if file.suffix in _SOURCES)
    if not files:
        raise StarError(f"stage code names {name}, which is no module", "correct Stage.code")
    return fingerprint([(file.relative_to(_ROOT).as_posix(), sha256(file)) for file in files])


def key_of(stage: Stage, config: Any, seed: int | None, upstream: Mapping[str, str]) -> dict[str, Any]:
    """Return everything that decides a stage's output, and the package versions it runs with."""
    return {
        "format": FORMAT,
        "stage": stage.name,
        "config": stage.decides(config) if stage.decides else config,
        "seed": seed,
        "inputs": dict(sorted(upstream.items())),
        "code": {name: source_digest(name) for name in stage.code},
        "versions": versions(("star-rl", *stage.packages)),
        **({"sources": dict(stage.sources(config))} if stage.sources else {}),
    }


def _same(key: Mapping[str, Any], other: Mapping[str, Any], apart: tuple[str, ...]) -> bool:
    return {**key, **dict.fromkeys(apart)} == {**other, **dict.fromkeys(apart)}


def _report_changes(name: str, before: Mapping[str, Any], now: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Name the code and package versions that differ from those a stage was made with."""
    changed = [module for module, digest in now["code"].items() if before.get("code", {}).get(module) != digest]
    old, new = before["versions"], now["versions"]
    changed += [f"{item} {old.get(item)} -> {new[item]}" for item in new if new[item] != old.get(item)]
    if changed:
        say(f"{name} was made with other code or versions ({', '.join(changed)}): --from {name} runs it again")


def _outputs(stage: Stage, folder: Path) -> dict[str, dict[str, Any]]:
    listed: dict[str, dict[str, Any]] = {}
    for pattern in stage.files:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and path.name not in (MANIFEST, _KEY):
                size = path.stat().st_size
                entry: dict[str, Any] = {"bytes": size}
                if size <= _HASH_LIMIT:
                    entry["sha256"] = sha256(path)
                listed[str(path.relative_to(folder))] = entry
    return listed


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, else ``None``."""
    path = folder / MANIFEST
    return read_json(path) if path.exists() else None


def digest(manifest: Mapping[str, Any]) -> str:
    """Return what stands for a stage's output in the keys of the stages that read it.

    The outputs' hashes where all of them were hashed: a stage that ran again and wrote the same bytes makes nothing
    after it run again. Else what decided them too.
    """
    outputs = manifest["outputs"]
    hashed = bool(outputs) and all("sha256" in entry for entry in outputs.values())
    return fingerprint(outputs if hashed else {"key": manifest["key"], "outputs": outputs})


def run_stage(
    stage: Stage,
    run: Path,
    config: Any,
    seed: int | None,
    progress: Progress,
    force: bool = False,
    say: Callable[[str], None] = print,
    same_code: bool = False,
) -> StageOutcome:
    """Run one stage, or find that nothing has to be done.

    Args:
        stage: what to run.
        run: the run's folder; the stage writes into ``run / stage.name``.
        config: the stage's part of the recipe as plain data.
        seed: the stage's seed, None if it draws nothing.
        progress: called while it works.
        force: run again from an empty folder whatever is there.
        say: takes a line on a folder that was moved aside, or on code and versions that differ.
        same_code: take a finished stage that other code made for done.

    Raises:
        StarError: an input is missing, or the stage itself refuses something.
    """
    began = time.monotonic()
    folder = run / stage.name
    upstream = {}
    for name in stage.reads:
        found = manifest_of(run / name)
        if found is None:
            raise StarError(
                f"stage {stage.name} reads {name}, which has not been run", f"run from there: --from {name}"
            )
        upstream[name] = digest(found)
    key = key_of(stage, config, seed, upstream)
    manifest = manifest_of(folder)
    if manifest is not None and manifest["figures"].get("incomplete"):
        manifest = None
    apart = ("versions", "code") if same_code else ("versions",)
    if not force and manifest is not None and _same(manifest["key"], key, apart):
        _report_changes(stage.name, manifest["key"], key, say)
        return StageOutcome(stage.name, "done", 0.0, manifest)

    begun = folder / _KEY
    before = read_json(begun) if not force and manifest is None and begun.exists() else None
    resumes = before is not None and _same(before, key, ("versions", "code"))
    try:
        if before is not None and resumes:
            _report_changes(stage.name, before, key, say)
        elif stage.aside or force:
            _move_aside(folder, stage.keep, say)
        else:
            _empty(folder, stage.keep)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(folder, error) from error
    write_json(begun, key)
    inputs = {name: run / name for name in stage.reads}
    figures = stage.body(Context(folder, copy.deepcopy(config), seed or 0, inputs, run, progress, say))
    manifest = {
        "stage": stage.name,
        "key": key,
        "seconds": round(time.monotonic() - began, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "outputs": _outputs(stage, folder),
        "figures": figures,
    }
    write_json(folder / MANIFEST, manifest)
    return StageOutcome(stage.name, "resumed" if resumes else "ran", time.monotonic() - began, manifest)


def share_stage(stage: Stage, source: Path, target: Path, say: Callable[[str], None] = print) -> None:
    """Give the run ``target`` a finished stage of the run ``source``; nothing to do if both have the same manifest.

    Files are linked. A costly stage is copied, because its files grow where they are when it resumes.
    """
    folder, part, made = target / stage.name, target / f".{stage.name}.part", manifest_of(source / stage.name)
    if made is None or made == manifest_of(folder):
        return
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source / stage.name, part, copy_function=shutil.copy2 if stage.aside else _link)
    if stage.aside:
        _move_aside(folder, (), say)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _empty(folder: Path, keep: Sequence[str]) -> None:
    if not folder.exists():
        return
    kept = {path for pattern in keep for path in folder.glob(pattern)}
    # The manifest goes first: a kill while emptying must not leave one that vouches for missing files.
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in sorted(folder.iterdir()):
        if path in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)


def _move_aside(folder: Path, keep: Sequence[str], say: Callable[[str], None]) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    old = folder.with_name(f"{folder.name}{ASIDE}{time.strftime('%Y%m%d-%H%M%S')}")
    while old.exists():
        old = old.with_name(f"{old.name}-2")
    folder.rename(old)
    for path in [path for pattern in keep for path in old.glob(pattern)]:
        target = folder / path.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    say(f"{folder.name} was made by other options, inputs or code: moved to {old}, delete it at will")
