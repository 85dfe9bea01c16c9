"""UserCF and ItemCF over the bipartite user-item graph: exact top-k neighbours for the rows that are asked for."""

from __future__ import annotations

from star_rl.neighbours.graph import Graph
from star_rl.neighbours.topk import Neighbours, item_neighbours, liked_items, user_neighbours
from star_rl.neighbours.update import Updated, update
from star_rl.neighbours.weights import WEIGHTS, Decay, Weighting

__all__ = [
    "WEIGHTS",
    "Decay",
    "Graph",
    "Neighbours",
    "Updated",
    "Weighting",
    "item_neighbours",
    "liked_items",
    "update",
    "user_neighbours",
]
