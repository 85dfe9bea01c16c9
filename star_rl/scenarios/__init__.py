"""What is visible when: tasks, their histories, and the interactions that neighbour graphs may see.

Every task has a cutoff. Its history is what its user did strictly before it, and the *visible* interactions of a user,
the only ones that neighbours and evidence are built from, end before the earliest cutoff over all tasks of that user.
"""

from star_rl.scenarios.classes import Thresholds, classify
from star_rl.scenarios.histories import Histories, Reviews, assert_no_leak, first_contact
from star_rl.scenarios.split import Split, SplitOptions, split
from star_rl.scenarios.tables import Tables

__all__ = [
    "Histories",
    "Reviews",
    "Split",
    "SplitOptions",
    "Tables",
    "Thresholds",
    "assert_no_leak",
    "classify",
    "first_contact",
    "split",
]
