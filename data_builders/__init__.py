"""One module a stage: they wire pieces of the library to files."""
