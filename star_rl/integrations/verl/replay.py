"""A replay buffer that looks often and overlooks nothing (``trainer.v1.sampler.custom_sampler``, synchronous training).

Often: verl sleeps 2 s between two looks (verl/trainer/ppo/v1/replay_buffer.py:144), nothing beside minutes of generation but the
larger part of a step where a tiny model needs one second.

Nothing: where rollouts raise, verl trains on those that are left and fills up with padding (replay_buffer.py:84). The policy loop
turns all that a model can do into data, so a rollout that raises is a fault of configuration or code, and training stops.
"""

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer


class StrictReplayBuffer(ReplayBuffer):
    """verl's synchronous replay buffer; ``sampler_kwargs.poll_interval`` (seconds) shortens the pause between two looks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        poll_interval = (kwargs.get("sampler_kwargs") or {}).get("poll_interval")
        if poll_interval is not None:
            kwargs["poll_interval"] = float(poll_interval)
        super().__init__(*args, **kwargs)

    def _sync_metadata_from_transfer_queue(self) -> None:
        """Refresh the state of all groups.

        Raises:
            RuntimeError: a rollout raised.
        """
        super()._sync_metadata_from_transfer_queue()
        failed = [uid for uids in self.failure_keys.values() for uid in uids]
        if failed:
            raise RuntimeError(f"a rollout of group {failed[0]} raised: see 'Error in _run_prompt' in the log")
