"""The FineTuneJob manifest: its types, how it is read, and what follows from it. Imports no torch and no ray."""

from finetune_trainer.spec.checkpoint import Checkpoint
from finetune_trainer.spec.cluster import FailurePolicy, FailureReason, FailureRule, Hub, RuntimeRef, Storage
from finetune_trainer.spec.data import (
    BadRecords,
    Contamination,
    Data,
    EvalSource,
    Format,
    Overlong,
    Packing,
    Source,
    TrainSource,
)
from finetune_trainer.spec.deepspeed import DeepSpeed, Offload
from finetune_trainer.spec.derived import ignored_locally, logs_uri, ranks, run_id, to_manifest, with_absolute_paths
from finetune_trainer.spec.evaluation import EarlyStopping, Evaluation, Forgetting
from finetune_trainer.spec.heads import Classification, ProblemType, Reward
from finetune_trainer.spec.identity import identity, identity_fields
from finetune_trainer.spec.job import API_VERSION, KIND, FineTuneJob, JobSpec, Metadata
from finetune_trainer.spec.load import load_job, load_local_job, parse_job
from finetune_trainer.spec.method import (
    ALL_LINEAR,
    Full,
    Initialization,
    LoRA,
    Method,
    MethodType,
    ModuleRank,
    QLoRA,
    QuantType,
)
from finetune_trainer.spec.metric import Metric, MetricType
from finetune_trainer.spec.model import WHICH_WORDS, AdapterUse, Model, StartAdapter, StartCheckpoint
from finetune_trainer.spec.objective import LANGUAGE, OBJECTIVES, Objective, ObjectiveType
from finetune_trainer.spec.output import Output, OutputFormat
from finetune_trainer.spec.training import (
    GradientCheckpointing,
    Optimizer,
    OptimizerType,
    Precision,
    Schedule,
    ScheduleType,
    Training,
)
from finetune_trainer.spec.workers import Resources, Workers

__all__ = [
    "ALL_LINEAR",
    "API_VERSION",
    "KIND",
    "LANGUAGE",
    "OBJECTIVES",
    "WHICH_WORDS",
    "AdapterUse",
    "BadRecords",
    "Checkpoint",
    "Classification",
    "Contamination",
    "Data",
    "DeepSpeed",
    "EarlyStopping",
    "EvalSource",
    "Evaluation",
    "FailurePolicy",
    "FailureReason",
    "FailureRule",
    "FineTuneJob",
    "Forgetting",
    "Format",
    "Full",
    "GradientCheckpointing",
    "Hub",
    "Initialization",
    "JobSpec",
    "LoRA",
    "Metadata",
    "Method",
    "MethodType",
    "Metric",
    "MetricType",
    "Model",
    "ModuleRank",
    "Objective",
    "ObjectiveType",
    "Offload",
    "Optimizer",
    "OptimizerType",
    "Output",
    "OutputFormat",
    "Overlong",
    "Packing",
    "Precision",
    "ProblemType",
    "QLoRA",
    "QuantType",
    "Resources",
    "Reward",
    "RuntimeRef",
    "Schedule",
    "ScheduleType",
    "Source",
    "StartAdapter",
    "StartCheckpoint",
    "Storage",
    "TrainSource",
    "Training",
    "Workers",
    "identity",
    "identity_fields",
    "ignored_locally",
    "load_job",
    "load_local_job",
    "logs_uri",
    "parse_job",
    "ranks",
    "run_id",
    "to_manifest",
    "with_absolute_paths",
]
