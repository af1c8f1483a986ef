"""Pure: selection rules, advantages, losses, denominators, and THE TABLE of algorithms."""
