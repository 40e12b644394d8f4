"""One module a folder layout; each finds the cases of a data set."""
