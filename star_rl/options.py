"""Classes of options: frozen pydantic dataclasses whose annotations are their ranges.

    @options
    class SampleOptions:
        n: Annotated[int, Field(ge=4, strict=True)] = 8
        top_p: Share = 0.95

Making one with a bad value raises a :class:`StarError` that names the option, the value and what is allowed. A rule
over several options stands in ``__post_init__`` and raises a StarError that begins with the name of an option.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, Strict, ValidationError
from pydantic.dataclasses import dataclass

from star_rl.errors import StarError

T = TypeVar("T")

#: Numbers are strict: ``true`` is not 1, and text is not a number.
Whole = Annotated[int, Strict()]
Count = Annotated[int, Field(ge=0, strict=True)]
Size = Annotated[int, Field(ge=1, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Number = Annotated[float, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
TopP = Annotated[float, Field(gt=0, le=1, strict=True)]
#: Text that may look like a number in YAML, such as the name ``2024``.
Text = Annotated[str, Field(coerce_numbers_to_str=True)]

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass_transform(frozen_default=True)
def options(cls: type[T]) -> type[T]:
    """Make a class a frozen pydantic dataclass that raises StarError; it takes neither unknown options nor nan."""
    return _with_our_errors(dataclass(cls, frozen=True, config=_CONFIG))


@dataclass_transform()
def section(cls: type[T]) -> type[T]:
    """Like :func:`options`, but not frozen: ``submit`` rewrites a recipe's paths."""
    return _with_our_errors(dataclass(cls, config=_CONFIG))


def read_options(kind: type[T], values: Any, where: str) -> T:
    """Make ``kind`` from a section of a recipe.

    Raises:
        StarError: names the option as ``where.option``.
    """
    if not isinstance(values, Mapping):
        raise _no_section(where, values)
    try:
        return kind(**{str(name): value for name, value in values.items()})
    except StarError as error:
        raise StarError(f"{where}.{error.what}", error.remedy) from error


def known(values: Any, names: Iterable[str], where: str) -> None:
    """Check that all keys of a section are known.

    Raises:
        StarError: the first unknown key, with the nearest known ones.
    """
    if not isinstance(values, Mapping):
        raise _no_section(where, values)
    names = list(names)
    for name in values:
        if name not in names:
            raise _unknown(f"{where}.", str(name), names)


def keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every option of a class, those of nested classes included."""
    for field in fields(kind):
        if is_dataclass(field.default_factory):
            yield from keys(field.default_factory, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _with_our_errors(cls: Any) -> Any:
    validated = cls.__init__

    @functools.wraps(validated)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        try:
            validated(self, *args, **values)
        except ValidationError as error:
            raise _refusal(cls, error) from None

    cls.__init__ = __init__
    return cls


def _refusal(cls: Any, error: ValidationError) -> StarError:
    """The first of pydantic's findings as one of ours."""
    names = list(keys(cls))
    findings = [(_key(names, found["loc"]), found) for found in error.errors(include_url=False)]
    key, found = findings[0]
    if found["type"] == "unexpected_keyword_argument":
        return _unknown("", key, names)
    if found["type"] == "missing":
        return StarError(f"{key} is not set", "it has no default")
    value = found["input"]
    if found["type"] in ("dataclass_type", "dict_type", "mapping_type"):
        return _no_section(key, value)
    # A union has one finding for each of its types.
    allowed = " or ".join(dict.fromkeys(_allowed(found["msg"]) for at, found in findings if at == key))
    return StarError(f"{key}={value!r} is not valid", f"it should be {allowed}")


def _allowed(message: str) -> str:
    """What pydantic's message allows."""
    plain = message.removeprefix("Input should be ").replace("greater than or equal to", "at least")
    return plain.replace("less than or equal to", "at most")


def _key(names: list[str], loc: tuple[int | str, ...]) -> str:
    """The option that a finding is about: a position is counted, and what pydantic adds for a union is cut off."""
    parts = [names[loc[0]] if isinstance(loc[0], int) else loc[0], *loc[1:]]
    dotted = [".".join(map(str, parts[:end])) for end in range(1, len(parts) + 1)]
    return next((key for key in dotted if key in names), dotted[-1])


def _unknown(where: str, key: str, names: list[str]) -> StarError:
    section = key.rpartition(".")[0]
    names = sorted({*names, *(name.rpartition(".")[0] for name in names)} - {""})
    near = difflib.get_close_matches(key, names, n=2, cutoff=0.6)
    beside = [name for name in names if name.rpartition(".")[0] == section]
    remedy = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(beside)}"
    return StarError(f"{where}{key} is not known", remedy)


def _no_section(key: str, value: Any) -> StarError:
    return StarError(f"{key}={value} is not a section", "write keys with values below it")
