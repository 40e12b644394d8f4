"""From a network to a probability, and from a probability to a mask."""
