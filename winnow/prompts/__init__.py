"""Prompts from data sets and generators, to train on and held out."""
