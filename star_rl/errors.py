"""The two kinds of failure.

A bad *configuration* (a path, an option, a version) is a :class:`StarError`: it stops at once, names the value and the
remedy, and the command line exits with code 2. A bad *rollout* is data: nothing that a model writes ever raises.
"""

from __future__ import annotations


class StarError(Exception):
    """A failure the user can mend.

    Args:
        what: one line that names the offending value.
        remedy: one line that says what to do about it.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what if not remedy else f"{what} - {remedy}")
        self.what = what
        self.remedy = remedy
