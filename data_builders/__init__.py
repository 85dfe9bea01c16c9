"""One module a stage: they wire pieces of the library to files."""

if __name__ != "star_rl.data_builders":
    raise ImportError("the folder data_builders is part of the package star_rl - write: import star_rl.data_builders")
