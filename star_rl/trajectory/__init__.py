"""The one grammar: what a trajectory is, written once for teacher, builders, rollout, reward, evaluator and viewer."""

from star_rl.trajectory.answers import AGAIN, answer_faults, answers_of
from star_rl.trajectory.grammar import EXPERTS, PHASES, compact_json, neutral
from star_rl.trajectory.model import (
    BadCall,
    Json,
    Phase,
    Response,
    Text,
    Thinking,
    ToolCall,
    Trajectory,
)
from star_rl.trajectory.outline import Outline, outline
from star_rl.trajectory.parse import parse, ranking, tool_calls
from star_rl.trajectory.render import from_messages, json_block, model_text, render, to_messages
from star_rl.trajectory.validate import CRITICAL, LACKING, PHASE_OF, Setting, faults, plan_of, repeated, required_phases

__all__ = [
    "AGAIN",
    "CRITICAL",
    "EXPERTS",
    "LACKING",
    "PHASES",
    "PHASE_OF",
    "BadCall",
    "Json",
    "Outline",
    "Phase",
    "Response",
    "Setting",
    "Text",
    "Thinking",
    "ToolCall",
    "Trajectory",
    "answer_faults",
    "answers_of",
    "compact_json",
    "faults",
    "from_messages",
    "json_block",
    "model_text",
    "neutral",
    "outline",
    "parse",
    "plan_of",
    "ranking",
    "render",
    "repeated",
    "required_phases",
    "to_messages",
    "tool_calls",
]
