"""A replay buffer that looks for finished rollouts more often (``trainer.v1.sampler.custom_sampler``).

verl sleeps 2 s between two looks (verl/trainer/ppo/v1/replay_buffer.py:144): nothing beside minutes of generation, the larger
part of a step where a tiny model needs one second.
"""

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

POLL_SECONDS = 0.05


class QuickReplayBuffer(ReplayBuffer):
    """verl's synchronous replay buffer with a shorter pause between two looks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("poll_interval", POLL_SECONDS)
        super().__init__(*args, **kwargs)
