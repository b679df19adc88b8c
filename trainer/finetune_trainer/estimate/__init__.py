"""Memory, time and cost of a job, before anything of it runs: pure functions of the manifest. Imports no torch."""

from finetune_trainer.estimate.config import UnknownArchitecture, read_shape
from finetune_trainer.estimate.fit import Change, Verdict, choose_micro_batch, device_total
from finetune_trainer.estimate.gpus import GPUS, Gpu, find_gpu
from finetune_trainer.estimate.known import known_shape
from finetune_trainer.estimate.memory import Peak, peak
from finetune_trainer.estimate.plan import OPT_OUT, Estimate, Hardware, estimate, least_of, refusal, settle
from finetune_trainer.estimate.setup import PERSISTENCE, REDUCE_BUCKET, Setup, use_gradient_checkpointing
from finetune_trainer.estimate.shape import ModelShape
from finetune_trainer.estimate.work import UTILISATION

__all__ = [
    "GPUS",
    "OPT_OUT",
    "PERSISTENCE",
    "REDUCE_BUCKET",
    "UTILISATION",
    "Change",
    "Estimate",
    "Gpu",
    "Hardware",
    "ModelShape",
    "Peak",
    "Setup",
    "UnknownArchitecture",
    "Verdict",
    "choose_micro_batch",
    "device_total",
    "estimate",
    "find_gpu",
    "known_shape",
    "least_of",
    "peak",
    "read_shape",
    "refusal",
    "settle",
    "use_gradient_checkpointing",
]
