"""Groups of draws: drawn, scored, selected, weighed, stored."""
