"""Load a reward function and try it before anything starts.

Contract: ``compute_score(data_source, solution_str, ground_truth, extra_info) -> dict`` of finite numbers, with the
same keys every time, ``score`` among them and ``reward`` not (verl keeps that name for itself). ``solution_str`` is
what the model wrote, without tool output.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from star_rl.errors import StarError

_NEEDED = ("data_source", "solution_str", "ground_truth", "extra_info")
_CANDIDATES = [str(item) for item in range(20)]
#: A good answer, nothing, and noise: what a reward must bear.
CANNED = (
    "<plan>\n<Thinking>a</Thinking>\n<JSON>[]</JSON>\n</plan>\n"
    '<reflection>\n<JSON>{"correct": "yes"}</JSON>\n</reflection>\n'
    f"<recommend>\n<JSON>{json.dumps(_CANDIDATES)}</JSON>\n</recommend>",
    "",
    '<recommend><JSON>[1, null, {</tool_call>\n<tool_call>{"name":',
)


def load_reward(spec: str) -> Callable[..., Any]:
    """The function named by ``pkg://module`` or by a Python file, ``compute_score`` unless ``:name`` says otherwise.

    Raises:
        StarError: there is no such module, file or function, or importing it fails.
    """
    package = spec.startswith("pkg://")
    place, _, name = spec.removeprefix("pkg://").partition(":")
    name = name or "compute_score"
    try:
        if package:
            module = importlib.import_module(place)
        else:
            if not Path(place).is_file():
                raise StarError(f"there is no reward file {place}", "give a Python file or pkg://module")
            found = importlib.util.spec_from_file_location(f"star_rl_reward_{Path(place).stem}", place)
            if found is None or found.loader is None:
                raise StarError(f"{place} is no Python file", "give a file that ends in .py, or pkg://module")
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
    except StarError:
        raise
    except Exception as error:  # a user's module may fail in any way at import
        raise StarError(
            f"cannot import the reward {spec}: {type(error).__name__}: {error}", "mend the module"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise StarError(f"the reward {spec} has no function {name}", "define it, or name another with :name at the end")
    return function


def check_reward(spec: str) -> Callable[..., Any]:
    """Load a reward and call it on three canned answers.

    Raises:
        StarError: it cannot be called as verl calls it, raises, or returns anything but the contract's dictionary.
    """
    function = load_reward(spec)
    parameters = inspect.signature(function).parameters
    takes_any = any(entry.kind is entry.VAR_KEYWORD for entry in parameters.values())
    for name in _NEEDED:
        if name not in parameters and not takes_any:
            raise StarError(
                f"the reward {spec} takes no argument {name}", f"its signature is compute_score({', '.join(_NEEDED)})"
            )
    keys: set[str] | None = None
    for answer in CANNED:
        try:
            scores = function(
                data_source="check",
                solution_str=answer,
                ground_truth=_CANDIDATES[0],
                extra_info={"task_id": "check", "candidates": list(_CANDIDATES), "rollout": {}},
            )
        except Exception as error:  # whatever a user's reward raises, it must not raise during training
            raise StarError(
                f"the reward {spec} raises {type(error).__name__}: {error}", "score any text, also noise"
            ) from error
        _check_scores(spec, scores)
        if keys is not None and keys != set(scores):
            raise StarError(
                f"the reward {spec} returns other keys for other answers", "return the same keys every time"
            )
        keys = set(scores)
    return function


def _check_scores(spec: str, scores: Any) -> None:
    if not isinstance(scores, dict) or "score" not in scores:
        raise StarError(f"the reward {spec} returns no dictionary with a key score", "return {'score': .., ..}")
    if "reward" in scores:
        raise StarError(f"the reward {spec} returns a key named reward", "verl keeps that name for itself: use score")
    for name, value in scores.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise StarError(f"the reward {spec} returns {name} = {value!r}", "return finite numbers only")
