"""What only the cluster has of the API: a job's status, the FineTuneRuntime, CEL rules. Pure types, no I/O.

The spec of a FineTuneJob is `finetune_trainer.spec`, unchanged: one source for laptop and cluster.
"""
