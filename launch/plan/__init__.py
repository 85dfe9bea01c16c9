"""``star-rl plan``: what a recipe needs of each GPU, before one is rented."""

from launch.plan.model import GIB, Phase, Plan
from launch.plan.recipes import plan_recipe
from launch.plan.shapes import QWEN3, Shape, shape_of

__all__ = ["GIB", "QWEN3", "Phase", "Plan", "Shape", "plan_recipe", "shape_of"]
