"""Metrics of a run, and who is told of them."""
