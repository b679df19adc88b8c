"""What one model did on the compared records: numbers and answers by record, and how they are kept over restarts."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from finetune_trainer.data import RecordId
from finetune_trainer.store import ObjectNotFound, ObjectStore

VERSION = 1


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Side(_Kept):
    """One model on one set.

    `losses`: nats per token of each record's answer, finite ones. `scores`: of each metric by its name, from 0 to 1.
    `answers`: the texts generated for the records that are shown.
    """

    losses: dict[RecordId, float] = {}
    scores: dict[str, dict[RecordId, float]] = {}
    answers: dict[RecordId, str] = {}


class SetBefore(_Kept):
    """The model before training on one set: as it is, and with examples in its prompt, at most `shots` of them.

    `constant`: what the best answer that is the same for every record comes to, where there is such an answer.
    """

    base: Side
    prompted: Side | None = None
    shots: int = 0
    constant: Side | None = None


class Contaminated(_Kept):
    """Held-out records of a set that equal (`exact`) or resemble (`near`) a training record, among those looked at.

    `records`: held-out records looked at; `train_records`: training records; `examples`: ids of some pairs.
    """

    name: str
    exact: int
    near: int
    records: int
    train_records: int
    examples: list[tuple[RecordId, RecordId]] = []


class Before(_Kept):
    """All that is measured before the first step; what of it was not asked for is empty."""

    version: int = VERSION
    sets: dict[str, SetBefore] = {}
    forgetting: dict[str, float] = {}
    contamination: list[Contaminated] = []


class BeforeFile:
    """`<checkpoint.uri>/<run id>/evaluation/before.json`: in the tenant's own storage, because answers are content."""

    def __init__(self, store: ObjectStore, run_id: str) -> None:
        self._store = store
        self._key = f"{run_id}/evaluation/before.json"

    def write(self, before: Before) -> None:
        """Keep it in place of any older one."""
        self._store.put(self._key, before.model_dump_json().encode())

    def read(self) -> Before | None:
        """What was measured; None for a run that began with another version, or without measuring."""
        try:
            return Before.model_validate_json(self._store.get(self._key))
        except (ObjectNotFound, ValidationError):
            return None
