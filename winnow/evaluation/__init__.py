"""How good a policy or a file of samples is: accuracies, best of n, over-optimization."""
