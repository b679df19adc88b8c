"""Where a run's metrics are sent while it trains."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.cluster import SecretRef
from finetune_trainer.spec.uri import ServerUri, TrackingUri

TrackerName = Annotated[
    str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._ /-]*[A-Za-z0-9])?$")
]


class WandBMode(StrEnum):
    """Whether runs are sent at once."""

    ONLINE = "Online"
    OFFLINE = "Offline"


class MLflow(Part):
    """A run in an MLflow experiment; needs the package `mlflow-skinny`."""

    uri: TrackingUri
    """The tracking server, `https://host:port`, or a folder of this machine, `file:///folder`."""

    experiment: TrackerName = "finetune"
    """Name of the experiment, which is made where it is missing."""

    secret_ref: SecretRef | None = None
    """Secret with `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`; elsewhere they
    come from the environment."""


class WandB(Part):
    """A run in a Weights & Biases project; needs the package `wandb`."""

    project: TrackerName
    """Name of the project."""

    entity: TrackerName | None = None
    """Team or user that owns the project; the key's own when left out."""

    uri: ServerUri | None = None
    """A server of your own, `https://host`; that of Weights & Biases when left out."""

    mode: WandBMode = WandBMode.ONLINE
    """`Online` sends at once; `Offline` keeps everything in `wandb/` in the run's folder, for `wandb sync`."""

    secret_ref: SecretRef | None = None
    """Secret with `WANDB_API_KEY`; elsewhere it comes from the environment."""


class TensorBoard(Part):
    """Event files in `tensorboard/` in the run's folder while it trains; they are in the output in any case."""


class Trackers(Part):
    """Where a run's metrics are sent while it trains; one that does not answer never stops or slows the run."""

    mlflow: MLflow | None = None
    """MLflow."""

    wandb: WandB | None = None
    """Weights & Biases."""

    tensor_board: TensorBoard | None = None
    """TensorBoard: `{}` is enough."""
