"""Samples and runs on the disk; a kill loses nothing."""
