"""The training loop, its sources of samples, and how a run is set up."""
