"""Rewards that are learned: pairs, a reward model, how it is fitted."""
