"""Survivors -> a gradient, and the optimiser that takes it."""
