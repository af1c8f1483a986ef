"""A data set -> prompts to train on, and prompts held out."""
