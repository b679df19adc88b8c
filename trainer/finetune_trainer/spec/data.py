"""What is read, and how it becomes rows of tokens."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.metric import Metric
from finetune_trainer.spec.names import ColumnName, EvalName
from finetune_trainer.spec.uri import SourceUri


class Format(StrEnum):
    """How a record is written."""

    AUTO = "Auto"
    MESSAGES = "Messages"
    SHARE_GPT = "ShareGPT"
    ALPACA = "Alpaca"
    PROMPT_COMPLETION = "PromptCompletion"
    TEXT = "Text"
    PREFERENCE = "Preference"
    UNPAIRED_PREFERENCE = "UnpairedPreference"
    CLASSIFICATION = "Classification"


class Overlong(StrEnum):
    """What happens to a document longer than `maxLength`; counted in every case."""

    TRUNCATE = "Truncate"
    SPLIT = "Split"
    DROP = "Drop"


class Packing(StrEnum):
    """How documents are put into rows."""

    BEST_FIT = "BestFit"
    NONE = "None"


class Contamination(StrEnum):
    """What happens when held-out records are among the training records."""

    WARN = "Warn"
    FAIL = "Fail"
    IGNORE = "Ignore"


Columns = Annotated[dict[ColumnName, ColumnName], Field(max_length=16)]


class Source(Part):
    """Files of records: JSON lines (plain, .gz or .zst) or Parquet."""

    uri: SourceUri
    """The files, as one name or a glob: `s3://bucket/path/*.jsonl.zst` or `file:///path/*.parquet`."""

    format: Format = Format.AUTO
    """How a record is written; `Auto` finds out from the first records' columns."""

    columns: Columns = Field(default_factory=dict)
    """Column of your files for each column of the format: `{prompt: question, completion: answer}`."""


class TrainSource(Source):
    """Files of training records."""

    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How often each record is seen per epoch: 0.5 takes a fixed half of them, 2 takes each one twice."""


class EvalSource(Source):
    """Files of held-out records."""

    name: EvalName
    """Name of this set in reports and metrics; unique within the job."""

    metrics: Annotated[tuple[Metric, ...], Field(max_length=8)] = ()
    """How the model's own answers are compared with the set's; the first one decides whether the training was worth it.
    Without any, the loss decides."""


class BadRecords(Part):
    """What to do about records that cannot be trained on; each one is quarantined with the reason."""

    max_ratio: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Share of bad records, from 0 to 1, above which the job fails."""


class Data(Part):
    """What is read, and how it becomes rows of tokens."""

    train: Annotated[tuple[TrainSource, ...], Field(min_length=1, max_length=64)]
    """Training data; several sources are mixed by their weights."""

    eval: Annotated[tuple[EvalSource, ...], Field(max_length=32)] = ()
    """Held-out data, never trained on."""

    contamination: Contamination = Contamination.WARN
    """What happens when records of `eval` equal or closely resemble records of `train`: a warning beside the result,
    or a failure before the first step; `Ignore` does not look."""

    max_length: Annotated[int, Field(ge=8, le=16_777_216)]
    """Longest row, in tokens; of preference pairs a row holds both texts, each with its prompt."""

    overlong: Overlong = Overlong.TRUNCATE
    """What happens to a document longer than `maxLength`: `Truncate`, `Split` or `Drop`; `Split` is chosen for CPT.

    Only `Drop` suits objectives that judge whole answers; a pair is dropped if its two texts together are longer.
    """

    packing: Packing = Packing.BEST_FIT
    """`BestFit` packs several documents into a row, kept apart by their positions; `None` puts one into each row."""

    bad_records: BadRecords = BadRecords()
    """Budget of records that cannot be trained on."""
