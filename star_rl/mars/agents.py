"""The agents: the phase each writes, whether it may call tools, and the check of its result.

A backend (rules or a language model) plays an agent and returns a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from star_rl.failure import Failure, Kind
from star_rl.prompts import Case, Memory, one_line
from star_rl.records import Item
from star_rl.trajectory import EXPERTS, Phase
from star_rl.trajectory.grammar import PLAN, RECOMMEND, REFLECTION
from star_rl.trajectory.model import Block

if TYPE_CHECKING:
    from star_rl.chat import ChatClient, ChatReply
    from star_rl.tools import Tools

#: Returns the tools of a case.
ToolsOf = Callable[[Case], "Tools"]

DIVERGENCE = "Interest_Divergence_Reasoning"
PROFILE = "User_Profile_Summary"
HISTORICAL = "Historical_Interest_Analysis"
RECENT = "Recent_Interest_Analysis"

_MAX_FINDINGS = 64  # a model that writes more does not stop


@dataclass(slots=True)
class Step:
    """One run of an agent: what it wrote, its result and its cost.

    Attributes:
        tag: the phase it wrote.
        round: 0 at first, n for the re-run after the n-th reflection.
        blocks: thinking, calls, responses and the result, as in the trajectory.
        value: the checked result.
        messages: the agent's conversation, in order (empty for rules).
        attempts: answers until one was well formed.
    """

    agent: str
    tag: str
    round: int = 0
    blocks: list[Block] = field(default_factory=list)
    value: Any = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 1
    model_calls: int = 0
    cached_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    @property
    def phase(self) -> Phase:
        return Phase(self.tag, list(self.blocks))

    async def ask(self, chat: ChatClient, messages: Sequence[dict[str, Any]], **request: Any) -> ChatReply:
        """Return a completion and add its cost. ``request`` goes to :meth:`star_rl.chat.ChatClient.complete`.

        Raises:
            AgentFailure: the endpoint failed (``endpoint``), or refuses a history with the model's own words
                (``malformed``).
        """
        from star_rl.chat import ChatError  # here, so that rules load no HTTP client

        try:
            reply = await chat.complete(messages, **request)
        except ChatError as error:
            own = any(message["role"] == "assistant" for message in messages)
            raise AgentFailure("malformed" if error.refused and own else "endpoint", str(error), self) from None
        self.model_calls += 1
        self.cached_calls += reply.cached
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        return reply


@dataclass(frozen=True, slots=True)
class View:
    """The input of an agent.

    Attributes:
        tools: None if the teacher runs without them.
        done: earlier steps, in order.
        suggestion: of the reflector, to an expert that runs again; to a ranker, of what was wrong with its ranking.
        sample: number of the pass over the task; passes differ by chance alone.
        top: ids in the ranking (fewer if there are fewer candidates).
        round: 0, or the number of the reflection that asked for this re-run.
        played, predicted: for the agent that rewrites a memory, the play as far as it is known and the first items of
            its ranking.
    """

    case: Case
    tools: Tools | None
    done: tuple[Step, ...] = ()
    suggestion: str = ""
    sample: int = 0
    top: int = 20
    round: int = 0
    played: Memory | None = None
    predicted: tuple[Item, ...] = ()

    def latest(self, agent: str) -> Step | None:
        """Return the latest step of an agent."""
        return next((step for step in reversed(self.done) if step.agent == agent), None)

    @property
    def ranked(self) -> int:
        """Return how many ids the ranking holds."""
        return min(self.top, len(self.case.candidates))


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent. ``check(value, view)`` returns what is wrong with a result; empty if nothing."""

    name: str
    tag: str
    tools: bool
    check: Callable[[Any, View], str]


class Backend(Protocol):
    """What plays the agents: rules or a language model."""

    @property
    def describe(self) -> dict[str, Any]:
        """Return everything that decides a result, as plain data without secrets."""

    async def ready(self, tools: bool = False) -> None:
        """Check that the backend can work, with tools or without, before the first task; StarError if it cannot."""

    async def act(self, agent: Agent, view: View) -> Step:
        """Play one agent; AgentFailure, with the step and its cost, if there is no well-formed answer."""


class AgentFailure(Exception):
    """An agent gave no usable answer. The run is recorded with the failure."""

    def __init__(self, kind: Kind, message: str, step: Step) -> None:
        self.failure, self.step = Failure(kind, message, step.agent), step
        super().__init__(str(self.failure))


def check_plan(value: Any, view: View) -> str:
    """Check for a non-empty list of distinct expert names."""
    if not isinstance(value, list) or not value:
        return "the result has to be a JSON list with at least one expert name"
    for name in value:
        if not isinstance(name, str) or name not in EXPERTS:
            return f"{one_line(repr(name), 60)} is not an expert; choose among {', '.join(EXPERTS)}"
    return "the same expert is named twice" if len(set(value)) != len(value) else ""


def check_findings(value: Any, view: View) -> str:
    """Check a list of strings; it may be empty, since an expert states only what the data supports."""
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry.strip() for entry in value):
        return "the result has to be a JSON list of non-empty strings"
    return f"at most {_MAX_FINDINGS} findings" if len(value) > _MAX_FINDINGS else ""


def check_verdict(value: Any, view: View) -> str:
    """Check ``{"correct": "yes"}``, or ``"no"`` with faulted experts among those that ran."""
    if not isinstance(value, dict) or value.get("correct") not in ("yes", "no"):
        return 'the result has to be an object whose "correct" is "yes" or "no"'
    if value["correct"] == "yes":
        return ""
    faulted = value.get("problematic_agent")
    if not isinstance(faulted, list) or not faulted:
        return '"problematic_agent" has to be a non-empty list'
    ran = [step.agent for step in view.done if step.agent in EXPERTS]
    for entry in faulted:
        if not isinstance(entry, dict) or entry.get("agent_name") not in ran:
            return f'"agent_name" has to be one of {", ".join(dict.fromkeys(ran))}'
        if not isinstance(entry.get("suggestion"), str) or not entry["suggestion"].strip():
            return '"suggestion" has to be a sentence'
    return ""


def check_ranking(value: Any, view: View) -> str:
    """Check that the list holds as many distinct candidate ids as asked for."""
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        return "the result has to be a JSON list of candidate ids as strings"
    known = set(view.case.candidates)
    foreign = [entry for entry in value if entry not in known]
    if foreign:
        return f"{one_line(repr(foreign[0]), 60)} is not among the candidates"
    if len(set(value)) != len(value):
        return f"an id stands twice; each of the {view.ranked} ids has to stand once"
    return f"{len(value)} ids were given, {view.ranked} are asked for" if len(value) != view.ranked else ""


def check_notes(value: Any, view: View) -> str:
    """Check ``{"preferences": ".."}``."""
    text = value.get("preferences") if isinstance(value, dict) else None
    ok = isinstance(text, str) and text.strip()
    return "" if ok else 'the result has to be an object whose "preferences" is a text'


def faulted(verdict: Any) -> dict[str, str]:
    """Return agent -> suggestion of a checked verdict; empty if all is correct."""
    if verdict["correct"] == "yes":
        return {}
    return {entry["agent_name"]: entry["suggestion"] for entry in verdict["problematic_agent"]}


PLANNER = Agent("Planner", PLAN, False, check_plan)
EXPERT_AGENTS = {name: Agent(name, tag, True, check_findings) for name, tag in EXPERTS.items()}
REFLECTOR = Agent("Reflector", REFLECTION, False, check_verdict)
RANKER = Agent("Ranker", RECOMMEND, True, check_ranking)
#: Writes the notes of a memory anew (docs/starec.md); the slow mode of a student.
REWRITER = Agent("Rewriter", REFLECTION, False, check_notes)
AGENTS: Sequence[Agent] = (PLANNER, *EXPERT_AGENTS.values(), REFLECTOR, RANKER)
