"""Who samples and who learns. `base.py` has the two protocols; everything else implements them."""
