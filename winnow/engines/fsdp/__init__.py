"""A learner whose model is sharded over processes by PyTorch's FSDP2."""
