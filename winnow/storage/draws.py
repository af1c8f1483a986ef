"""Draws on the disk: their columns, files of them, and a journal that a kill cannot hurt."""
