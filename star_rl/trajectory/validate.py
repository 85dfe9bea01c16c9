"""Is a trajectory well formed? One list of named faults; rewards, filters and audits choose which of them matter."""

from __future__ import annotations

from collections.abc import Sequence

from star_rl.trajectory.grammar import EXPERT_TAGS, EXPERTS, PLAN, RECOMMEND, REFLECTION
from star_rl.trajectory.model import BadCall, Json, Response, Thinking, ToolCall, Trajectory

#: The phases that the paper's format reward asks for (section 3.5).
CRITICAL = (PLAN, REFLECTION, RECOMMEND)

_EXPERTS = frozenset(EXPERT_TAGS)


def repeated(trajectory: Trajectory) -> list[str]:
    """Tags of the phases that came once too often: a second plan or ranking, an expert that ran again unasked.

    A reflection may send experts back to work (paper, section 3.2), so each may run once between two reflections.
    """
    seen: set[str] = set()
    found = []
    for phase in trajectory.phases:
        if phase.tag == REFLECTION:
            seen -= _EXPERTS
        elif phase.tag in seen:
            found.append(phase.tag)
        elif phase.tag:
            seen.add(phase.tag)
    return found


def faults(trajectory: Trajectory, required: Sequence[str] = CRITICAL, own_text: bool = True) -> list[str]:
    """Every fault, as ``code:detail``; an empty list means well formed. Linear in the trajectory.

    Args:
        trajectory: as parsed.
        required: phases that must be there (an ablated student has fewer).
        own_text: the text is the model's own, so a tool response in it was forged.

    Codes: ``missing`` (a required phase), ``order`` (plan not first, recommend not last, a reflection before any
    expert), ``repeated`` (see :func:`repeated`, and two JSON results in one phase), ``tags`` (unbalanced), ``json`` (a
    phase whose result is absent or does not parse), ``list`` (a ranking that is JSON but no list), ``call`` (a tool
    call that does not parse), ``forged`` (a tool response by the model).
    """
    found = [f"tags:{code}" for code, _ in trajectory.problems] if trajectory.problems else []
    tags = [phase.tag for phase in trajectory.phases if phase.tag]
    present = set(tags)
    if not present.issuperset(required):
        found += [f"missing:{tag}" for tag in required if tag not in present]
    if len(present) != len(tags):
        found += [f"repeated:{tag}" for tag in repeated(trajectory)]
    if PLAN in present and tags[0] != PLAN:
        found.append(f"order:{PLAN}")
    if RECOMMEND in present and tags[-1] != RECOMMEND:
        found.append(f"order:{RECOMMEND}")
    if REFLECTION in present:
        first_expert = next((index for index, tag in enumerate(tags) if tag in _EXPERTS), -1)
        if tags.index(REFLECTION) < first_expert:
            found.append(f"order:{REFLECTION}")
    for phase in trajectory.phases:
        result: Json | None = None
        results = 0
        for block in phase.blocks:
            kind = type(block)
            if kind is Thinking or kind is ToolCall:
                continue
            if isinstance(block, Json):
                result, results = block, results + 1
            elif isinstance(block, BadCall):
                found.append(f"call:{block.reason}")
            elif own_text and kind is Response:
                found.append(f"forged:{phase.tag}")
        if not phase.tag or not phase.closed:
            continue  # what stands outside promises nothing; an open phase is a fault of its tags already
        if results > 1:
            found.append(f"repeated:JSON in {phase.tag}")
        value, error = (None, "absent") if result is None else result.decoded()
        if error:
            found.append(f"json:{phase.tag}")
        elif phase.tag == RECOMMEND and not isinstance(value, list):
            found.append(f"list:{phase.tag}")
    return found


def plan_of(trajectory: Trajectory) -> list[str]:
    """The expert names that the plan chose, unknown ones left out; empty where there is no plan that parses."""
    for phase in trajectory.of(PLAN):
        value = phase.result.value if phase.result else None
        if isinstance(value, list):
            return [name for name in value if isinstance(name, str) and name in EXPERTS]
    return []
