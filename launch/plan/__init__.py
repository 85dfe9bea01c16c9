"""``star-rl plan``: what a recipe needs of each GPU and how long it takes, before one is rented."""

from launch.plan.model import GIB, Phase, Plan
from launch.plan.recipes import plan_recipe
from launch.plan.shapes import QWEN3, Shape, shape_of
from launch.plan.time import Assumed

__all__ = ["GIB", "QWEN3", "Assumed", "Phase", "Plan", "Shape", "plan_recipe", "shape_of"]
