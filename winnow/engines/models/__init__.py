"""Models of transformers: loading them, and log-probs of many answers at once."""
