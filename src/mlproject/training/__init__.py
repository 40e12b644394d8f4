"""The optimisation loop, its checkpoints and its worker processes."""
