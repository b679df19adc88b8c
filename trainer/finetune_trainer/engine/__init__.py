"""DeepSpeed, held at arm's length: its configuration, one optimizer step, and its partitioned state as plain tensors."""
