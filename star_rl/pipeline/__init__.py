"""Recipes, the stages of the chain, and the runner that executes them."""
