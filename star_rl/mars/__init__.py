"""MARS, the teacher: a team of agents behind which stands any language model, or rules (paper, section 3.2).

case         what the agents may see of a task
agents       the agents, and what their results have to be
team         planner -> experts -> reflector -> re-runs -> ranker
rules        the agents' work by counts and evidence
record       one run as it is kept
teach        many tasks, several passes each, resumable
"""

from star_rl.mars.agents import AGENTS, Agent, AgentFailure, Backend, Step, View
from star_rl.mars.case import Case, Tools
from star_rl.mars.record import Run, from_json, read_runs, to_json
from star_rl.mars.rules import RuleBackend, RuleOptions, strength_of
from star_rl.mars.teach import Account, identity_of, teach
from star_rl.mars.team import Outcome, Team, TeamOptions

__all__ = [
    "AGENTS",
    "Account",
    "Agent",
    "AgentFailure",
    "Backend",
    "Case",
    "Outcome",
    "RuleBackend",
    "RuleOptions",
    "Run",
    "Step",
    "Team",
    "TeamOptions",
    "Tools",
    "View",
    "from_json",
    "identity_of",
    "read_runs",
    "strength_of",
    "teach",
    "to_json",
]
