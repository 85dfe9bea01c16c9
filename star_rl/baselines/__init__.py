"""Yardsticks that need no language model."""

from star_rl.baselines.simple import ItemKNN, Popularity, Random

__all__ = ["ItemKNN", "Popularity", "Random"]
