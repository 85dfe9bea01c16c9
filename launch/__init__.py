"""Thin wiring: recipes to stages, stages to this machine or to a Ray cluster."""

if __name__ != "star_rl.launch":
    raise ImportError("import star_rl.launch: the folder launch is part of the package star_rl")
