"""What a submitted job runs on the cluster: the preflight, then the recipe, stage after stage.

``python -m launch.job SPEC`` with a file of JSON: ``recipe`` (YAML text), ``start``, ``until``, ``needs``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from launch import compiled, preflight, secret
from star_rl.errors import StarError
from star_rl.masking import MaskedStream
from star_rl.stage import Context, Stage, manifest_of

#: Written into the package beside the code.
SPEC = ".star_rl_job.json"


def guarded(stages: tuple[Stage, ...], needs: preflight.Needs) -> tuple[Stage, ...]:
    """The chain with a look at the store on every node before GRPO starts on them."""

    def guard(body: Any) -> Any:
        def checked(context: Context) -> dict[str, Any]:
            manifest = manifest_of(context.run / "tasks") or {"figures": {}}
            store = dataclasses.replace(
                needs,
                model="",
                store=str(context.inputs["evidence"] / "store"),
                fingerprint=manifest["figures"].get("visible_fingerprint", ""),
            )
            print("\n".join(preflight.run(store)), flush=True)
            result: dict[str, Any] = body(context)
            return result

        return checked

    return tuple(
        dataclasses.replace(stage, body=guard(stage.body)) if stage.name == "grpo" else stage for stage in stages
    )


def run(spec: dict[str, Any]) -> None:
    """Run a submitted recipe.

    Raises:
        StarError: the cluster is not ready, or a stage refuses something.
    """
    from launch import chain, local
    from launch.check import check_recipe
    from launch.recipe import load

    needs = preflight.Needs(**spec["needs"])
    for part in compiled.adopt(Path(compiled.__file__).resolve().parents[1]):
        print(f"{part} is not built in this image: a slower path is taken (pip install -e . builds it)", flush=True)
    print("preflight: looking at the cluster's nodes", flush=True)
    print("\n".join(preflight.run(needs)), flush=True)
    file = Path(SPEC).with_suffix(".yaml")
    file.write_text(spec["recipe"], encoding="utf-8")
    recipe = load(file)
    check_recipe(recipe, spec.get("until"))
    local.run(recipe, guarded(chain.STAGES, needs), spec.get("start"), spec.get("until"))


def main(path: str) -> int:
    """Exit codes as those of ``star-rl``."""
    secret.load()
    sys.stdout, sys.stderr = MaskedStream(sys.stdout), MaskedStream(sys.stderr)
    try:
        run(json.loads(Path(path).read_text(encoding="utf-8")))
    except StarError as error:
        print(f"star-rl: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("star-rl: stopped; star-rl resume goes on from here", file=sys.stderr, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
