"""Rewards: (prompt, completion) -> a number, or an error."""
