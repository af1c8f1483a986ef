"""The loop, what it works with, and how a run is put together."""
