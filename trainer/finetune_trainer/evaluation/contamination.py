"""Looks for held-out records among the training records, and does about them what the manifest says."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from finetune_trainer.data import DataSettings
from finetune_trainer.data.contamination import find_contamination, refuse_contamination
from finetune_trainer.dataset import Dataset
from finetune_trainer.engine.collectives import Tell
from finetune_trainer.evaluation.sides import Contaminated
from finetune_trainer.spec import Contamination, JobSpec

NAME = "looking for held-out records among the training records"


def look_for_contamination(
    spec: JobSpec, dataset: Dataset, tokenizer: PreTrainedTokenizerFast, tell: Tell
) -> list[Contaminated]:
    """What is found of every held-out set; nothing where the manifest says not to look.

    DataError for a set that holds training records, with `contamination: Fail`.
    """
    policy = spec.data.contamination
    if policy is Contamination.IGNORE or not dataset.held_out:
        return []

    def progress(name: str, done: int, total: int) -> None:
        tell({"kind": "phase", "name": NAME, "detail": name, "done": done, "total": total, "unit": "records"})

    indices = {name: held_out.index for name, held_out in dataset.held_out.items()}
    train, found = find_contamination(dataset.index, indices, DataSettings.of(spec, 1), tokenizer, progress)
    if policy is Contamination.FAIL:
        for number, one in enumerate(found):
            refuse_contamination(f"spec.data.eval[{number}]", one)
    return [
        Contaminated(
            name=one.name,
            exact=one.overlap.exact,
            near=one.overlap.near,
            records=one.total.read,
            train_records=train.total.read,
            examples=[(match.record, match.earlier) for match in one.overlap.examples],
        )
        for one in found
        if one.overlap is not None
    ]
