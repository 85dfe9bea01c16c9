"""The keys that every reward returns, and the parsing of a response that all rewards share.

``solution_str`` is what the model wrote: its turns joined by a newline, no prompt and no tool output. The ranking is
scored as it stands, position by position (as AgentRecBench's evaluator does): duplicates and foreign ids hold their
places, and what is no string matches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from star_rl.trajectory import AGAIN, CRITICAL, ToolCall, outline, repeated
from star_rl.trajectory.grammar import RECOMMEND
from star_rl.trajectory.model import all_strings

#: key -> meaning. Every reward returns exactly these, all finite floats. verl logs ``acc`` under ``val-core`` and the
#: rest under ``val-aux``. No key is named ``reward``, which verl keeps for itself.
KEYS = {
    "score": "what GRPO maximises",
    "acc": "1 where the truth stands first (HR@1)",
    "hr3": "1 where it stands among the first 3",
    "hr5": "1 where it stands among the first 5",
    "hr_avg": "mean of acc, hr3, hr5",
    "format": "+1 where the response is well formed, else -1",
    "outcome": "the paper's tier: 1, 2/3, 1/3 or 0",
    "rank": "position of the truth from 1, 0 where it is absent",
    "valid_list": "1 where the list is distinct candidates, as many as asked for (no candidates given: strings)",
    "list_length": "entries of the list",
    "tool_calls": "tool calls made",
    "invalid_calls": "tool calls that do not parse, name no tool or have wrong arguments",
    "repeated_calls": "tool calls made before with the same arguments",
    "repeated_phases": "second plans, second rankings, experts that ran again without a reflection between",
    "phases": "phases written",
}


@dataclass(slots=True)
class Reading:
    """A response as a reward reads it.

    Attributes:
        ranks: ids in the order of the list; ``None`` for an entry that is no string. Empty where there is no list.
        rank: position of the truth from 1, 0 where it is absent.
        well_formed: no fault (:func:`star_rl.trajectory.faults`).
        faults: the faults by name.
        response_tokens: by the policy loop, tool answers included; 0 without its counts.
        candidates: ids; None where ``extra_info`` has none.
    """

    ranks: tuple[str | None, ...]
    rank: int
    well_formed: bool
    faults: tuple[str, ...]
    valid_list: bool
    tool_calls: int
    invalid_calls: int
    repeated_calls: int
    repeated_phases: int
    phases: int
    response_tokens: int
    candidates: tuple[str, ...] | None

    def scores(self, score: float) -> dict[str, float]:
        """Return all of :data:`KEYS` with this ``score``."""
        acc, hr3, hr5 = hits(self.rank)
        tier = (acc + hr3 + hr5) / 3.0
        return {
            "score": float(score),
            "acc": acc,
            "hr3": hr3,
            "hr5": hr5,
            "hr_avg": tier,
            "format": 1.0 if self.well_formed else -1.0,
            "outcome": tier,
            "rank": float(self.rank),
            "valid_list": float(self.valid_list),
            "list_length": float(len(self.ranks)),
            "tool_calls": float(self.tool_calls),
            "invalid_calls": float(self.invalid_calls),
            "repeated_calls": float(self.repeated_calls),
            "repeated_phases": float(self.repeated_phases),
            "phases": float(self.phases),
        }


def hits(rank: int) -> tuple[float, float, float]:
    """Return HR@1, HR@3, HR@5. Their mean is the paper's tier: 1 at rank 1, 2/3 at 2-3, 1/3 at 4-5, else 0."""
    return float(rank == 1), float(1 <= rank <= 3), float(1 <= rank <= 5)


def read(solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None) -> Reading:
    """Parse a response once. Never raises for what the text holds; time linear in its length.

    Args:
        solution_str: what the model wrote.
        ground_truth: the item id that was chosen next.
        extra_info: may hold ``required`` (phases an ablated student must write; default: plan, reflection, recommend),
            ``candidates`` (ids), ``top`` (how many of them are asked for; None: all), ``rollout`` (the counts of the
            policy loop) and ``answers``: where an environment spoke between them, the last ranking counts, and an
            answer after the first is well formed with a ranking alone.
    """
    info: Mapping[str, Any] = extra_info or {}
    needed = info.get("required")
    given = info.get("candidates")
    candidates = None if given is None else strings(given)
    truth = ground_truth if isinstance(ground_truth, str) else str(ground_truth)
    needed = CRITICAL if needed is None else strings(needed)
    answers = info.get("answers") or ()
    if len(answers) > 1:
        parts = [outline(text, AGAIN if place else needed) for place, text in enumerate(answers)]
    else:
        parts = [outline(solution_str, needed)]
    ids = next((part.ranking for part in reversed(parts) if RECOMMEND in part.tags), None) or []
    written = [call for part in parts for call in part.calls]
    faults = [fault for part in parts for fault in part.faults]
    calls = [call for call in written if isinstance(call, ToolCall)]
    bad = len(written) - len(calls)
    distinct = {f"{call.name}\0{call.arguments!r}" for call in calls} if len(calls) > 1 else calls
    counted = (info.get("rollout") or {}).get
    unread = int(counted("unparsable_calls") or 0)
    made = int(counted("tool_calls") or 0) + unread + int(counted("refused_calls") or 0)
    unanswerable = int(counted("unknown_tools") or 0) + int(counted("bad_arguments") or 0)
    return Reading(
        ranks=tuple(ids),
        rank=ids.index(truth) + 1 if truth in ids else 0,
        well_formed=not faults,
        faults=tuple(faults),
        valid_list=_valid(ids, candidates, info.get("top")),
        # A thought left open over turns hides calls from whoever reads the whole; the loop has counted them.
        tool_calls=max(len(written), made),
        invalid_calls=max(bad, unread) + unanswerable,
        repeated_calls=max(len(calls) - len(distinct), int(counted("repeated_calls") or 0)),
        repeated_phases=sum(len(repeated(part.tags)) for part in parts if part.faults),  # repetition is a fault
        phases=sum(len(part.tags) for part in parts),
        response_tokens=int(counted("response_tokens") or 0),
        candidates=candidates,
    )


def scored(of: Callable[..., float]) -> Callable[..., dict[str, float]]:
    """Return the ``compute_score`` of a reward: ``of`` of the response as ``score``, beside the other :data:`KEYS`.

    ``of`` gets the options that its signature names; others are ignored, for a later verl may pass more arguments.
    """
    names = tuple(signature(of).parameters)[1:]

    def compute_score(
        data_source: str,
        solution_str: str,
        ground_truth: str,
        extra_info: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, float]:
        reading = read(solution_str, ground_truth, extra_info)
        return reading.scores(of(reading, **{name: options[name] for name in names if name in options}))

    return compute_score


def strings(value: Iterable[Any]) -> tuple[str, ...]:
    """Return Parquet's list or array as a tuple of strings."""
    entries = tuple(value)
    return entries if all_strings(entries) else tuple(map(str, entries))


def _valid(ids: list[str | None], candidates: tuple[str, ...] | None, top: int | None) -> bool:
    """As :func:`star_rl.evaluation.metrics.is_valid`; a benchmark's task may name a candidate twice."""
    if not ids or None in ids:
        return False
    distinct = set(ids)
    if not candidates:
        return len(distinct) == len(ids)
    if len(distinct) == len(ids):
        known = set(candidates)
        return len(ids) >= min(top or len(known), len(known)) and distinct <= known
    return len(ids) == len(candidates) and sorted(map(str, ids)) == sorted(candidates)
