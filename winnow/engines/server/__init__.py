"""Samples from any OpenAI-compatible server."""
