"""DeepSpeed, held at arm's length: its configuration, one step, and its partitioned state as tensors."""
