"""What every command is made of: lazy groups, examples in its help, options that take several values."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import click

PARTS = ("train", "valid", "test")
AT_LEAST_1 = click.IntRange(min=1)
SECONDS = click.FloatRange(min=0.001)
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Several(click.Option):
    """An option that takes all words up to the next option: ``--set a=1 b=2``."""

    def __init__(self, names: Sequence[str], **settings: Any) -> None:
        super().__init__(names, multiple=True, **settings)


class Command(click.Command):
    """A command with examples at the end of its help."""

    def __init__(self, *names: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.examples = examples

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        several = {name for parameter in self.params if isinstance(parameter, Several) for name in parameter.opts}
        words: list[str] = []
        option = ""
        for word in args:  # Click has no such option: ``--set a=1 b=2`` becomes ``--set a=1 --set b=2``
            if word.startswith("-"):
                option = word if word in several else ""
            elif option and words[-1] != option:
                words.append(option)
            words.append(word)
        try:
            return super().parse_args(context, [*words])  # which it empties
        except click.NoSuchOption as error:
            raise self._unknown(context, error.option_name, words) from None
        except click.UsageError as error:
            error.ctx = error.ctx or context  # its help is named, not the group's
            raise

    def _unknown(self, context: click.Context, name: str, words: Sequence[str]) -> click.UsageError:
        """Return the error of an unknown option: the word as it was given, and the nearest known option."""
        heads = [word.partition("=")[0] for word in words]
        given = next(
            (head for head in heads if head == name or (not head.startswith("--") and head.startswith(name))), name
        )
        plain = given.lstrip("-")
        if any(parameter.name == "overrides" for parameter in self.params):
            from star_rl.pipeline.options import Recipe

            if plain.partition(".")[0] in Recipe.__dataclass_fields__:
                return click.UsageError(f"No such option {given!r}, write {plain}=VALUE", context)
        known = [option for parameter in self.params for option in parameter.opts if option.startswith("--")]
        return click.NoSuchOption(given, possibilities=get_close_matches(f"--{plain}", known, 1), ctx=context)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, [f"star-rl {line}" for line in self.examples])


def write_examples(formatter: click.HelpFormatter, lines: Sequence[str]) -> None:
    """Write lines below ``examples``, never wrapped, so that each can be copied."""
    if lines:
        with formatter.section("examples"):
            formatter.write("".join(f"  {line}\n" for line in lines))


def command(name: str, words: str, *examples: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a function a command that returns its exit code; None is 0."""
    return click.command(name, Command, help=words, short_help=words, examples=examples)


class LazyGroup(click.Group):
    """Commands by name, each loaded from its module when it is asked for.

    Args:
        places: command -> module whose attribute of that name, ``-`` as ``_``, is the command.
        examples: lines of the group's help.
    """

    def __init__(self, name: str, places: Mapping[str, str], examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(name, no_args_is_help=False, context_settings=_CONTEXT, **settings)
        self.places, self.examples = places, examples

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.places)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.places:
            return None
        made: click.Command = getattr(importlib.import_module(self.places[name]), name.replace("-", "_"))
        return made

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], self.places, 1)
            raise click.UsageError(
                error.message + "".join(f" Did you mean {one!r}?" for one in near), context
            ) from None

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, self.examples)


def tasks_options(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the options that say which tasks are evaluated, and with which seed."""
    for option in reversed(
        (
            click.option("--tasks", required=True, metavar="RUN_OR_FILE", help="a run's folder, or a file of tasks"),
            click.option("--part", type=click.Choice(PARTS), default="test", help="of a run's tasks"),
            click.option("--world", metavar="RUN", help="run whose tables and evidence belong to a file of tasks"),
            click.option("--limit", type=AT_LEAST_1, metavar="N", help="the first N tasks of each sub-task"),
            click.option("--seed", type=int, help="of candidates' order and methods (default: the run's)"),
        )
    ):
        function = option(function)
    return function
