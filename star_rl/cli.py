"""``star-rl``: one command, a sub-command a job. Sub-commands import what they need when they run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from star_rl import __version__
from star_rl.errors import StarError

_EXAMPLES = """\
examples:
  star-rl doctor                                   is this machine ready?
  star-rl run recipes/quickstart.yaml              the whole chain on the built-in synthetic world
  star-rl run recipes/quickstart.yaml source=movielens source.root=DIR name=ml-100k
  star-rl run recipes/quickstart.yaml --from grpo  run GRPO and all after it again
  star-rl run recipes/quickstart.yaml grpo.reward=my_reward.py name=my-reward
"""


def _run(arguments: argparse.Namespace) -> int:
    from launch import chain, local, recipe

    if arguments.options:
        from dataclasses import asdict

        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(asdict(recipe.load(arguments.recipe, arguments.overrides))))
        return 0
    if arguments.stages:
        print("\n".join(stage.name for stage in chain.STAGES))
        return 0
    loaded = recipe.load(arguments.recipe, arguments.overrides)
    local.run(loaded, chain.STAGES, arguments.start, arguments.until)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from launch import doctor

    return doctor.run(arguments.extra)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="star-rl",
        description="Teach one language model to recommend the way a team of agents does.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"star-rl {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a recipe, stage after stage", epilog=_EXAMPLES,
                              formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    run.add_argument("recipe", help="a recipe's YAML file")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="options over the recipe's")
    run.add_argument("--from", dest="start", metavar="STAGE", help="run this stage and all after it again")
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run.add_argument("--stages", action="store_true", help="list the stages and stop")
    run.add_argument("--options", action="store_true", help="print every option with its value and stop")
    run.set_defaults(call=_run)

    doctor = commands.add_parser("doctor", help="check versions, engines, the plug-in and the machine")
    doctor.add_argument("--extra", choices=("cpu", "gpu"), help="which pins to hold to (default: what is installed)")
    doctor.set_defaults(call=_doctor)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit codes: 0 done, 1 a check failed, 2 something the user can mend, 130 interrupted."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.call(arguments)
    except StarError as error:
        print(f"star-rl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("star-rl: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


if __name__ == "__main__":
    raise SystemExit(main())
