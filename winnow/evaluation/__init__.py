"""Measures of a policy or a file of samples: accuracy, best of n, over-optimization."""
