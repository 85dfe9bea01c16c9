"""star_rl: distil a team of recommending agents (MARS) into one language model (STAR) by SFT, then GRPO.

Importing this package loads no engine: torch, ray, verl, vllm and ms-swift are reached only from
``star_rl.policy``, ``star_rl.integrations``, ``star_rl.baselines`` and ``launch``.
"""

__version__ = "0.2.0"
