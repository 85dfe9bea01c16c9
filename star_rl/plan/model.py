"""A plan as data: phases with their parts per GPU, what is worth knowing, what overflows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

GIB = 2**30


@dataclass(frozen=True, slots=True)
class MemoryPhase:
    """One moment of a step with the memory that is held then: name of a part -> bytes per GPU."""

    name: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(slots=True)
class Plan:
    """What a stage needs.

    Attributes:
        title: stage, model and layout.
        memory: bytes of one GPU.
        phases: see :class:`MemoryPhase`; a GPU must hold the largest.
        facts: sentences with figures: tokens a step, KV cache, host memory.
        problems: what would overflow or be refused, each with its remedy; empty when it fits.
    """

    title: str
    memory: float
    phases: list[MemoryPhase] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def hold(self, phase: MemoryPhase, remedies: Iterable[str]) -> None:
        """Add a phase; one that does not fit becomes a problem with these remedies."""
        self.phases.append(phase)
        if phase.total > self.memory:
            over = (phase.total - self.memory) / GIB
            largest = max(phase.parts, key=lambda name: phase.parts[name])
            self.problems.append(
                f"{phase.name} overflows by {over:.1f} GiB, most of it {largest} "
                f"({phase.parts[largest] / GIB:.1f} GiB): " + "; ".join(remedies)
            )

    def text(self) -> str:
        """The plan as lines for a terminal."""
        names = list(dict.fromkeys(name for phase in self.phases for name in phase.parts if phase.parts[name]))
        wide = max(len(name) for name in (*names, "GiB per GPU")) + 2
        columns = [max(11, len(phase.name) + 2) for phase in self.phases]
        lines = [self.title, ""]
        lines.append(
            "GiB per GPU".ljust(wide) + "".join(p.name.rjust(c) for p, c in zip(self.phases, columns, strict=True))
        )
        for name in names:
            cells = [f"{phase.parts[name] / GIB:.2f}" if phase.parts.get(name) else "" for phase in self.phases]
            lines.append(name.ljust(wide) + "".join(cell.rjust(c) for cell, c in zip(cells, columns, strict=True)))
        totals = "".join(f"{p.total / GIB:.2f}".rjust(c) for p, c in zip(self.phases, columns, strict=True))
        lines.append("total".ljust(wide) + totals + f"   of {self.memory / GIB:.1f}")
        lines += ["", *self.facts]
        lines += [f"OVERFLOW  {problem}" for problem in self.problems] or ["fits"]
        return "\n".join(line.rstrip() for line in lines)
