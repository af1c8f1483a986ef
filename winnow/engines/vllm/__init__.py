"""Samples from vLLM servers that are sent the policy's weights."""
