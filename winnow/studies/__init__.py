"""Studies: variants of a run x seeds, run to their ends and compared over seeds."""
