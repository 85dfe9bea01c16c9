"""A memory for each user: notes on preferences, rewritten after each interaction that is revealed (docs/starec.md).

play       rank, reveal, reflect, rewrite: over a user's last interactions
store      the sealed store, looked up by user and history
follow_up  the environment of a reflection: rank again with the new notes
"""

from star_rl.memory.store import Memories

__all__ = ["Memories"]
