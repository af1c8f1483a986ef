"""What a run takes on many GPUs, calculated: no weights, no GPU and no model hub are needed."""
