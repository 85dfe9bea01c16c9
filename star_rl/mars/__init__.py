"""MARS, the teacher: a team of agents played by a language model or by rules (paper, section 3.2).

agents       the agents, and the checks of their results
team         planner -> experts -> reflector -> re-runs -> ranker
llm          agents played by a language model; a planner played by a model trained on plans
rules        agents played by rules
record       one run on disk
teach        many tasks, several passes each, resumable
view         runs in the terminal and on an HTML page
"""

from star_rl.mars.record import from_json, read_runs, to_json
from star_rl.mars.rules import RuleBackend, RuleOptions
from star_rl.mars.teach import Account, identity_of, teach
from star_rl.mars.team import Outcome, Team, TeamOptions

__all__ = ["Account", "Outcome", "RuleBackend", "RuleOptions", "Team", "TeamOptions", "from_json"]
__all__ += ["identity_of", "read_runs", "teach", "to_json"]
