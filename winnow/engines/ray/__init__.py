"""Learner processes and vLLM servers on a Ray cluster, which places, watches and restarts them."""
