"""Load a reward by its name and try it before a training starts.

A spec is a short name (``star``), ``path/to/file.py[:function]`` or ``pkg://module[:function]``; the function is
``compute_score`` unless named.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from star_rl.deadline import Overtime, within
from star_rl.errors import StarError
from star_rl.policy.rollout_stats import COUNTS
from star_rl.rewards.keys import KEYS
from star_rl.trajectory import CRITICAL, PHASES, json_block

Reward = Callable[..., Mapping[str, float]]

#: Short names: the files of this package.
NAMES = ("star", "format", "outcome", "reciprocal_rank", "ndcg", "margin", "tool_cost", "overlong", "gated", "starec")
ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
#: Keys that curves, reports and verl's validation read. A reward of the user's own may have further ones.
NEEDED = ("score", "acc")

#: Seconds that an import or one call of a reward may take when it is tried. Training has no such limit.
PATIENCE = 60.0
_CANDIDATES = [str(number) for number in range(100, 120)]


_RESULTS: dict[str, Any] = {"reflection": {"correct": "yes"}, "recommend": _CANDIDATES}
#: Responses that a reward is tried on.
_CANNED = {
    "a well formed response with the truth first": "\n".join(
        f"<{tag}>\n<Thinking>well</Thinking>\n<JSON>{json_block(_RESULTS.get(tag, ['a'])).raw}</JSON>\n</{tag}>"
        for tag in PHASES
    ),
    "an empty response": "",
    "a response of noise": '<recommend><JSON>[1, null, {</tool_call>\n<tool_call>{"name":\0',
}


def _info(text: str) -> dict[str, Any]:
    """Return ``extra_info`` as in training: a row's (data_builders/grpo_set.py) and the loop's counts."""
    return {
        "index": 0,
        "split": "train",
        "task_id": "check",
        "scenario": "classic",
        "user_id": "1",
        "candidates": list(_CANDIDATES),
        "slots": None,
        "difficulty": "medium",
        "successes": 4,
        "required": list(CRITICAL),
        "top": None,
        "rollout": dict.fromkeys(COUNTS, 0.0),
        "answers": [text],
    }


def place(spec: str) -> tuple[str, str]:
    """Resolve a spec to (module, function): ``path`` and ``name`` of verl's ``reward.custom_reward_function``.

    The module is ``pkg://module`` or the absolute path of a file.

    Raises:
        StarError: the spec has none of the three forms, or there is no such file.
    """
    if spec.startswith("pkg://"):
        module, _, function = spec.removeprefix("pkg://").partition(":")
        if not all(part.isidentifier() for part in module.replace("/", ".").split(".")):
            raise StarError(
                f"reward={spec} names no module", "write pkg://package.module or pkg://package.module:function"
            )
        return f"pkg://{module.replace('/', '.')}", function or "compute_score"
    if spec in NAMES:
        return f"pkg://star_rl.rewards.{spec}", "compute_score"
    head, colon, function = spec.rpartition(":")
    path, function = (head, function) if colon and head.endswith(".py") else (spec, "compute_score")
    if not path.endswith(".py"):
        raise StarError(
            f"reward={spec} is unknown", f"choose one of {', '.join(NAMES)}, a path to a .py file, or pkg://module"
        )
    if not Path(path).is_file():
        raise StarError(f"there is no reward file {path}", "check the path; it is relative to the current folder")
    return str(Path(path).resolve()), function or "compute_score"


def load(spec: str) -> Reward:
    """Load the function that a spec names.

    Raises:
        StarError: there is no such module, file or function, or importing it fails.
    """
    module_path, name = place(spec)
    try:
        if module_path.startswith("pkg://"):
            module = within(PATIENCE, lambda: importlib.import_module(module_path.removeprefix("pkg://")))
        else:
            found = importlib.util.spec_from_file_location(f"reward_{Path(module_path).stem}", module_path)
            if found is None or found.loader is None:
                raise StarError(f"{module_path} cannot be imported", "give a Python file")
            module = importlib.util.module_from_spec(found)
            within(PATIENCE, lambda: found.loader.exec_module(module))  # type: ignore[union-attr]
    except StarError:
        raise
    except Overtime as error:
        raise StarError(
            f"reward={spec} could not be imported within {PATIENCE:g} s", "move the slow work out of the import"
        ) from error
    except (Exception, SystemExit) as error:  # a user's file may fail in any way when it is imported
        raise StarError(
            f"reward={spec} cannot be imported: {type(error).__name__}: {error}",
            "fix the file, or install what it imports",
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise StarError(f"reward={spec} has no function {name}", "define it, or name another with :function")
    return function


def options_of(verl: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reward's options in a recipe's ``verl:`` section: ``reward_kwargs``, with or without Hydra's +."""
    function = (verl.get("reward") or {}).get("custom_reward_function") or {}
    return dict(function.get("+reward_kwargs") or function.get("reward_kwargs") or {})


def check(function: Reward, name: str = "the reward", **options: Any) -> tuple[str, ...]:
    """Try a reward on three canned responses; returns its keys, sorted.

    Args:
        function: as loaded.
        name: how to call it in messages.
        options: the recipe's own (verl's ``reward_kwargs``).

    Raises:
        StarError: it cannot be called with the four arguments by name, raises, exits, takes longer than
            :data:`PATIENCE`, returns no dictionary of finite numbers, lacks ``score`` or ``acc``, has a key ``reward``
            or ``loop_..``, changes its keys, or scores noise above a right answer.
    """
    try:
        inspect.signature(function).bind(**dict.fromkeys(ARGUMENTS), **options)
    except (TypeError, ValueError) as error:
        wanted = ", ".join((*ARGUMENTS, *options))
        raise StarError(f"{name} cannot be called with ({wanted}): {error}", "take these arguments by name") from error
    keys: tuple[str, ...] | None = None
    scores: list[float] = []
    for label, text in _CANNED.items():
        arguments = dict(zip(ARGUMENTS, ("check", text, _CANDIDATES[0], _info(text)), strict=True))
        try:
            answer = within(PATIENCE, lambda given=arguments: function(**given, **options))  # type: ignore[misc]
        except Overtime as error:
            raise StarError(
                f"{name} did not score {label} within {PATIENCE:g} s", "make it faster: it is called for every rollout"
            ) from error
        except (Exception, SystemExit) as error:  # whatever it raises, it would raise in the middle of a training
            raise StarError(
                f"{name} raises {type(error).__name__} on {label}: {error}", "a reward must score any text"
            ) from error
        found = _keys(answer, name, label)
        if keys is not None and found != keys:
            odd = ", ".join(sorted(set(found) ^ set(keys)))
            raise StarError(f"{name} changes its keys on {label}: {odd}", "return the same keys every time")
        keys = found
        scores.append(float(answer["score"]))
    if scores[0] < max(scores):
        raise StarError(
            f"{name} scores a right answer {scores[0]:g} and a wrong one {max(scores):g}",
            "check its sign and its terms",
        )
    return keys or ()


def _keys(answer: Any, name: str, label: str) -> tuple[str, ...]:
    if inspect.isawaitable(answer):
        getattr(answer, "close", lambda: None)()
        raise StarError(f"{name} is asynchronous", "write a plain function")
    if not isinstance(answer, Mapping):
        raise StarError(f"{name} returns {type(answer).__name__}", f"return a dictionary with {', '.join(NEEDED)}, ..")
    if "reward" in answer:
        raise StarError(f"{name} returns a key named reward", "verl keeps that name for itself; use score")
    if taken := [key for key in answer if str(key).startswith("loop_")]:
        raise StarError(
            f"{name} returns a key {taken[0]}", "the rollout's own counts have names with loop_; choose another"
        )
    missing = [key for key in NEEDED if key not in answer]
    if missing:
        raise StarError(f"{name} returns no {', '.join(missing)}", f"the keys are {', '.join(KEYS)}")
    for key, value in answer.items():
        if not isinstance(key, str) or not _finite(value):
            raise StarError(f"{name} returns {key}={value!r} on {label}", "return finite numbers only")
    return tuple(sorted(answer))


def _finite(value: Any) -> bool:
    try:
        return not isinstance(value, (str, bytes)) and math.isfinite(float(value))
    except Exception:  # an array of several numbers, for instance; what it raises depends on its library
        return False
