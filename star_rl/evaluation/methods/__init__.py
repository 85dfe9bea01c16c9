"""Everything that ranks, behind one interface: ``rank(context)``.

base       the interface: :class:`Method`, what it sees and what it answers
registry   methods by name, as the command line spells them
baseline   plain objects and the methods without a language model
teacher, student, agents   methods that need a run's recipe
python     methods of one's own, whose code may block
"""

from star_rl.evaluation.methods.base import Method, Ranking, TaskContext, as_ranking
from star_rl.evaluation.methods.registry import make

__all__ = ["Method", "Ranking", "TaskContext", "as_ranking", "make"]
