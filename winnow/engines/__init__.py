"""Samplers and learners. `base.py` has the two protocols; everything else implements them."""
