"""How good a policy or a file of draws is: accuracies, best of n, over-optimisation."""
