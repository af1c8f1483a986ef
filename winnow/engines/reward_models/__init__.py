"""Reward models: preference pairs, fitting, scoring."""
