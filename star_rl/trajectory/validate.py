"""Is a trajectory well formed? One list of named faults; rewards, filters and audits choose which of them matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from star_rl.trajectory.grammar import EXPERT_TAGS, EXPERTS, PLAN, RECOMMEND, REFLECTION
from star_rl.trajectory.model import BadCall, Json, Response, Thinking, ToolCall, Trajectory

#: The phases that the paper's format reward asks for (section 3.5).
CRITICAL = (PLAN, REFLECTION, RECOMMEND)
Setting = Literal["full", "no_tools", "no_planner", "no_reflector", "planner_only", "fast"]
#: SFT settings -> the parts that their student lacks (paper, table 3); ``fast`` ranks in one phase (docs/starec.md).
LACKING: Mapping[str, tuple[str, ...]] = {
    "no_tools": ("tools",),
    "no_planner": ("planner",),
    "no_reflector": ("reflector",),
    "fast": ("tools", "planner", "reflector", "experts"),
}
#: Part of the team -> the critical phase that it writes.
PHASE_OF = {"planner": PLAN, "reflector": REFLECTION}

_EXPERTS = frozenset(EXPERT_TAGS)


def required_phases(setting: str) -> tuple[str, ...]:
    """Return the critical phases that a student of this SFT setting writes; the reward asks for no others."""
    lacks = {PHASE_OF.get(part) for part in LACKING.get(setting, ())}
    return tuple(phase for phase in CRITICAL if phase not in lacks)


def repeated(tags: Sequence[str]) -> list[str]:
    """Return the phases that stand once too often: a second plan or ranking, an expert that ran again unasked.

    A reflection may send experts back to work (paper, section 3.2), so each may run once between two reflections.
    """
    seen: set[str] = set()
    found = []
    for tag in tags:
        if tag == REFLECTION:
            seen -= _EXPERTS
        elif tag in seen:
            found.append(tag)
        else:
            seen.add(tag)
    return found


def order_faults(tags: Sequence[str], required: Sequence[str] = CRITICAL) -> list[str]:
    """The faults (see :func:`faults`) that show in the tags of the phases alone."""
    found = []
    present = set(tags)
    if not present.issuperset(required):
        found += [f"missing:{tag}" for tag in required if tag not in present]
    if len(present) != len(tags):
        found += [f"repeated:{tag}" for tag in repeated(tags)]
    if PLAN in present and tags[0] != PLAN:
        found.append(f"order:{PLAN}")
    if RECOMMEND in present and tags[-1] != RECOMMEND:
        found.append(f"order:{RECOMMEND}")
    if REFLECTION in present:
        before = tags[: tags.index(REFLECTION)]
        if _EXPERTS.isdisjoint(before) and not _EXPERTS.isdisjoint(present):
            found.append(f"order:{REFLECTION}")
    return found


def result_fault(tag: str, value: Any, error: str) -> str:
    """What is wrong with a phase's decoded result; empty where nothing is."""
    if error:
        return f"json:{tag}"
    return f"list:{tag}" if tag == RECOMMEND and not isinstance(value, list) else ""


def faults(trajectory: Trajectory, required: Sequence[str] = CRITICAL, own_text: bool = True) -> list[str]:
    """Return every fault as ``code:detail``; an empty list means well formed. Linear in the trajectory.

    Args:
        trajectory: as parsed.
        required: phases that must be there (an ablated student has fewer).
        own_text: the text is the model's own, so a tool response in it was forged.

    Codes: ``missing`` (a required phase), ``order`` (plan not first, recommend not last, a reflection before any
    expert), ``repeated`` (see :func:`repeated`, and two JSON results in one phase), ``tags`` (unbalanced), ``json`` (a
    phase whose result is absent or does not parse), ``list`` (a ranking that is JSON but no list), ``call`` (a tool
    call that does not parse), ``forged`` (a tool response by the model).
    """
    unbalanced = [f"tags:{problem}" for problem in trajectory.problems]
    return unbalanced + order_faults(trajectory.tags, required) + block_faults(trajectory, own_text)


def block_faults(trajectory: Trajectory, own_text: bool = True) -> list[str]:
    """Return the faults (see :func:`faults`) of the phases' content."""
    found: list[str] = []
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
        if fault := result_fault(phase.tag, value, error):
            found.append(fault)
    return found


def plan_of(trajectory: Trajectory) -> list[str]:
    """Return the experts that the plan chose, without unknown ones; empty if no plan parses."""
    for phase in trajectory.of(PLAN):
        value = phase.result.value if phase.result else None
        if isinstance(value, list):
            return [name for name in value if isinstance(name, str) and name in EXPERTS]
    return []
