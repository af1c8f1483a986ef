"""The gradient of a mini-batch, and its optimizer."""
