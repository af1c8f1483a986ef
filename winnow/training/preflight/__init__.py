"""A check-up before a run: machine, model, data, verifier, a first sample, a step."""
