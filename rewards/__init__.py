"""Rewards: pure functions from what the model wrote to a flat dictionary of numbers, one file each.

    star             the paper's reward: format + outcome (section 3.5)
    format           +1 well formed, -1 not
    outcome          1 / 2/3 / 1/3 / 0 for the truth at rank 1 / 2-3 / 4-5 / beyond
    reciprocal_rank  format + 1 / rank
    ndcg             format + NDCG@k
    margin           format + how far above the middle of the list the truth stands
    tool_cost        star - cost per tool call
    overlong         star - a soft length penalty
    gated            outcome where well formed, else 0
    starec           STARec's tiers from +1 to -1; -1 where malformed

Each has ``compute_score(data_source, solution_str, ground_truth, extra_info=None, **options)`` and returns the keys of
:data:`star_rl.rewards.keys.KEYS`. A reward of your own: docs/rewards.md.
"""

if __name__ != "star_rl.rewards":
    raise ImportError("the folder rewards is part of the package star_rl - write: import star_rl.rewards")
