"""Pure: which draws survive, what each weighs, losses, what they are divided by; THE TABLE."""
