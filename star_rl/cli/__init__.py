"""``star-rl``: one module a group of commands; each command's options stand above its body.

These modules import Click alone, so that help is quick; a body imports what it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click

from star_rl import __version__
from star_rl.cli.base import LazyGroup
from star_rl.errors import StarError

COMMANDS = {
    **dict.fromkeys(("run", "doctor", "plan"), "star_rl.cli.run"),
    **dict.fromkeys(("tables", "evidence"), "star_rl.cli.data"),
    **dict.fromkeys(("teach", "view"), "star_rl.cli.teach"),
    "sample": "star_rl.cli.results",
    **dict.fromkeys(("evaluate", "compare"), "star_rl.cli.evaluate"),
    "official": "star_rl.cli.official",
    **dict.fromkeys(("best-of-k", "corpus", "latency", "ablate"), "star_rl.cli.studies"),
    **dict.fromkeys(("curves", "reward", "rescore", "export"), "star_rl.cli.results"),
}
_EXAMPLES = (
    "star-rl doctor                                   is this machine ready?",
    "star-rl run quickstart                           the whole chain on the built-in synthetic world",
    "star-rl run quickstart source=movielens source.root=DIR name=ml-100k",
    "star-rl run quickstart --from grpo               run GRPO and all after it again",
    "star-rl run quickstart grpo.reward=my_reward.py name=my-reward",
    "star-rl plan grpo/table5                         does it fit 16 GPUs?",
)


def main(argv: Sequence[str] | None = None, more: Mapping[str, str] | None = None, examples: Sequence[str] = ()) -> int:
    """Run a command line; returns the exit code: 0 done, 1 a check failed, 2 something the user can mend, 130
    interrupted, 141 the reader of a pipe is gone.

    Args:
        more: further commands and their modules.
        examples: further lines of the help.
    """
    words = "Teach one language model to recommend the way a team of agents does."
    group = LazyGroup("star-rl", {**COMMANDS, **(more or {})}, (*_EXAMPLES, *examples), help=words)
    click.version_option(__version__, prog_name="star-rl", message="%(prog)s %(version)s")(group)
    try:
        with group.make_context("star-rl", list(sys.argv[1:] if argv is None else argv)) as context:
            return group.invoke(context) or 0
    except click.exceptions.Exit as ended:  # after --help and --version
        return ended.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "star-rl"
        print(f"star-rl: {error.format_message().rstrip('.')} - see {path} --help", file=sys.stderr)
        return 2
    except StarError as error:
        print(f"star-rl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("star-rl: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
