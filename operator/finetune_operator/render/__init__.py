"""A job and its runtime as the objects of one attempt: pure functions, no I/O but this package's own preStop script."""

from finetune_operator.render.memory import check_memory
from finetune_operator.render.names import attempt_name
from finetune_operator.render.objects import objects
from finetune_operator.render.reporting import Operator
from finetune_operator.render.runtime_check import check_runtime
from finetune_operator.render.suitable import check_job

__all__ = ["Operator", "attempt_name", "check_job", "check_memory", "check_runtime", "objects"]
