"""Models of transformers: loading them, and log-probs of many completions at once."""
