"""Evaluation: answers of methods to tasks, their metrics, comparisons and studies.

tasks       a set of tasks: checked, shuffled, fingerprinted
methods     everything that ranks
runner      lets a method answer, resumable
evaluate    the evaluator: ``star-rl evaluate``, ``star-rl compare``
stages      the stages ``evaluate`` and ``report`` of a recipe
results     answers as a table
metrics     the official evaluator's, NDCG, MRR, bootstrap
scores      metrics of all methods, sub-tasks and pairs
compare     several evaluations in the layout of the paper's table 1
paper       the paper's figures
studies     best of k, all items, latency, ablation
official    the official simulator
"""
