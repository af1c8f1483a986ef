"""A policy in this process: sampler and learner over one module."""
