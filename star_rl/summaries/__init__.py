"""Summaries of the older part of each user's record (paper, section 3.2), made once and sealed.

build   the summaries of a run's users, by a served model or by rules
rules   counts, turning points and named items, without a model
store   the sealed store, looked up by user and history
"""

from star_rl.prompts import Summary
from star_rl.summaries.store import Summaries

__all__ = ["Summaries", "Summary"]
