"""Thin wiring: recipes to stages, stages to this machine or to a Ray cluster."""
