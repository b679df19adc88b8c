"""The trainer: streams data, trains with DeepSpeed, commits checkpoints and exports the result."""
