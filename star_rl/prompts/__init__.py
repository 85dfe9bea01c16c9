"""What models are asked, in the project's own words: one template per agent and one for the student, versioned.

words      foreign text made safe, token estimates
history    one interaction as it is read
flavours   books, products, local businesses, films, and a generic one
student    the prompt of the distilled model (STAR)
agents     the prompts of the teacher's agents (MARS)
evidence   the prompts of the verbalisers (Collaborative Signal Translation)
"""

from star_rl.prompts.flavours import FLAVOURS, Flavour, described, flavour_of
from star_rl.prompts.history import Behaviour, Event, before
from star_rl.prompts.student import (
    STUDENT_VERSION,
    PromptOptions,
    StudentPrompt,
    category_of,
    record_line,
    student_messages,
    student_prompt,
)
from star_rl.prompts.words import estimate_tokens, one_line, valid, valid_json

__all__ = [
    "FLAVOURS",
    "STUDENT_VERSION",
    "Behaviour",
    "Event",
    "Flavour",
    "PromptOptions",
    "StudentPrompt",
    "before",
    "category_of",
    "described",
    "estimate_tokens",
    "flavour_of",
    "one_line",
    "record_line",
    "student_messages",
    "student_prompt",
    "valid",
    "valid_json",
]
