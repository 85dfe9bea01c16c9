"""Is a trajectory well formed? One list of named faults; rewards, filters and audits choose which of them matter."""

from __future__ import annotations

from collections.abc import Sequence

from star_rl.trajectory.grammar import EXPERT_TAGS, EXPERTS, PLAN, RECOMMEND, REFLECTION
from star_rl.trajectory.model import BadCall, Response, Trajectory

#: The phases that the paper's format reward asks for (section 3.5).
CRITICAL = (PLAN, REFLECTION, RECOMMEND)


def faults(trajectory: Trajectory, required: Sequence[str] = CRITICAL, own_text: bool = True) -> list[str]:
    """Every fault, as ``code:detail``; an empty list means well formed.

    Args:
        trajectory: as parsed.
        required: phases that must be there (an ablated student has fewer).
        own_text: the text is the model's own, so a tool response in it was forged.

    Codes: ``missing`` (a required phase), ``order`` (plan not first, recommend not last, an expert or a reflection out
    of its place), ``repeated`` (two plans or two rankings), ``tags`` (unbalanced), ``json`` (a phase whose result is
    absent or does not parse), ``call`` (a tool call that does not parse), ``forged`` (a tool response by the model).
    """
    found: list[str] = [f"tags:{code}" for code, _ in trajectory.problems]
    tags = [phase.tag for phase in trajectory.phases if phase.tag]
    found += [f"missing:{tag}" for tag in required if tag not in tags]
    found += [f"repeated:{tag}" for tag in (PLAN, RECOMMEND) if tags.count(tag) > 1]
    if PLAN in tags and tags[0] != PLAN:
        found.append(f"order:{PLAN}")
    if RECOMMEND in tags and tags[-1] != RECOMMEND:
        found.append(f"order:{RECOMMEND}")
    if REFLECTION in tags and any(tag in EXPERT_TAGS for tag in tags):
        first_expert = min(index for index, tag in enumerate(tags) if tag in EXPERT_TAGS)
        if tags.index(REFLECTION) < first_expert:
            found.append(f"order:{REFLECTION}")
    for phase in trajectory.phases:
        if own_text and any(isinstance(block, Response) for block in phase.blocks):
            found.append(f"forged:{phase.tag}")
        found += [f"call:{call.reason}" for call in phase.calls if isinstance(call, BadCall)]
        if phase.tag and phase.closed:
            result = phase.result
            if result is None or result.error:
                found.append(f"json:{phase.tag}")
    return found


def plan_of(trajectory: Trajectory) -> list[str]:
    """The expert names that the plan chose, unknown ones left out; empty where there is no plan that parses."""
    for phase in trajectory.of(PLAN):
        value = phase.result.value if phase.result else None
        if isinstance(value, list):
            return [name for name in value if isinstance(name, str) and name in EXPERTS]
    return []
