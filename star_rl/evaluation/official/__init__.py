"""The official simulator of AgentSociety and AgentRecBench (PyPI ``websocietysimulator``), with any of our methods
inside.

Its pins (transformers < 5, langchain 0.3) are not ours, so it lives in an environment of its own and our methods answer
from theirs: the simulator's agent sends what its tool shows over a local socket and gets a ranking back.

layout      tables and tasks as the simulator reads them
submission  the agent: the file that is handed in
runner      runs the simulator; a script for its own interpreter
bridge      methods behind a socket
session     the whole run, and the official figures compared with ours
"""

from star_rl.evaluation.official.bridge import Bridge
from star_rl.evaluation.official.layout import Group, groups_below, write_layout
from star_rl.evaluation.official.session import OfficialScore, simulate, table

__all__ = ["Bridge", "Group", "OfficialScore", "groups_below", "simulate", "table", "write_layout"]
