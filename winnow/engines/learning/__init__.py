"""Survivors -> a gradient, and the optimizer that takes it."""
