"""What a launcher hands to the training loop; it lives below the loop, in `finetune_trainer.context`."""

from finetune_trainer.context import Answer, Reporter, RunContext, SilentReporter, StopSignal

__all__ = ["Answer", "Reporter", "RunContext", "SilentReporter", "StopSignal"]
