"""Thin wiring: recipes to stages, stages to this machine or to a Ray cluster."""

if __name__ != "star_rl.launch":
    raise ImportError("the folder launch is part of the package star_rl - write: import star_rl.launch")
