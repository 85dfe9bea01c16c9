"""A reward of your own: what GRPO maximises.

    star-rl reward check examples/custom_reward.py
    star-rl run recipes/quickstart.yaml grpo.reward=examples/custom_reward.py name=brief

``compute_score`` is called once for every rollout. It is a pure function of what the model wrote: it never sees the
prompt or a tool's answer. Before a training starts it is tried on a good response, an empty one and noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star_rl import read_response

FREE_CALLS = 2  # tool calls that cost nothing


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    call_cost: float = 0.05,
    **_: Any,
) -> dict[str, float]:
    """Reciprocal rank of a well formed response, less a little for each further tool call and for an invalid list.

    Args:
        data_source: name of the task's source.
        solution_str: the model's turns, joined by newlines.
        ground_truth: the item that the user chose next.
        extra_info: candidates, scenario, difficulty and the rollout's counts.
        call_cost: an option; set it with ``reward_kwargs`` in a GRPO overlay (docs/rewards.md).

    Returns:
        ``score``, which is maximised, and further numbers, each of which becomes a curve.
    """
    response = read_response(solution_str, ground_truth, extra_info)
    score = 1.0 / response.rank if response.well_formed and response.rank else 0.0
    score -= call_cost * max(0, response.tool_calls - FREE_CALLS)
    if not response.valid_list:  # an invented id, or one named twice
        score -= 0.1
    return response.scores(score)  # ``score`` beside hit rates, format, rank and counts
