"""``star-rl plan``: what a recipe needs of each GPU and how long it takes, before one is rented."""

from star_rl.plan.model import GIB, MemoryPhase, Plan
from star_rl.plan.recipes import plan_recipe
from star_rl.plan.shapes import QWEN3, Shape, shape_of
from star_rl.plan.time import Assumed

__all__ = ["GIB", "QWEN3", "Assumed", "MemoryPhase", "Plan", "Shape", "plan_recipe", "shape_of"]
