"""Prompts: one versioned template per agent, and one for the student.

words      make foreign text safe, estimate tokens
case       a task as a model sees it
slots      short names for a task's candidates and record
flavours   vocabulary of books, products, local businesses, films, or any items
student    the distilled model (STAR); compact: its short form
modes      a student with two modes, fast and slow
memory     its slow mode: reflect, then rank again
agents     the teacher's agents (MARS)
baselines  the agentic baselines of the paper's table 1
evidence   the LLM verbaliser (Collaborative Signal Translation)
"""

from star_rl.prompts.case import Behaviour, Case, Event, Memory, Summary, before
from star_rl.prompts.flavours import FLAVOURS, Flavour, described, flavour_of
from star_rl.prompts.slots import Names, Slots
from star_rl.prompts.student import (
    STUDENT_VERSION,
    PromptOptions,
    StudentPrompt,
    record_line,
    student_prompt,
)
from star_rl.prompts.words import estimate_tokens, one_line, valid, valid_json

__all__ = [
    "FLAVOURS",
    "STUDENT_VERSION",
    "Behaviour",
    "Case",
    "Event",
    "Flavour",
    "Memory",
    "Names",
    "PromptOptions",
    "Slots",
    "StudentPrompt",
    "Summary",
    "before",
    "described",
    "estimate_tokens",
    "flavour_of",
    "one_line",
    "record_line",
    "student_prompt",
    "valid",
    "valid_json",
]
