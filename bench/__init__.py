"""`make bench`: what the software costs, beside its peers on the same work."""
