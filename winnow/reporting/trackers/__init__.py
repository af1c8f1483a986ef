"""Tells a run to experiment trackers: TensorBoard, Weights & Biases, Trackio.

Each has a file, which says how its library is told; `base.py` says what is told and when. A library
is imported when its tracker is told for the first time.
"""
