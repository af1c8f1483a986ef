"""The page of a run: one HTML file that needs no network. What is in it, and how it is packed."""
