"""TRL's trainers of each objective, and transformers' of a classifier, as contestants on the raw records."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from bench.contestants import WARM_UP, global_batches, plain_model
from bench.objective_workload import LABELS
from bench.trl_contestants import ENDLESS, forget_launcher
from bench.turns import Turns
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.spec import FineTuneJob, load_job
from parity import trl_sft

Record = dict[str, Any]

SETTINGS: dict[str, dict[str, Any]] = {
    "padded": {"train_sampling_strategy": "random"},
    "grouped": {"train_sampling_strategy": "group_by_length"},
    "padded, reference kept": {"train_sampling_strategy": "random", "precompute_ref_log_probs": True},
    "grouped, reference kept": {"train_sampling_strategy": "group_by_length", "precompute_ref_log_probs": True},
    "sequential, reference kept": {"train_sampling_strategy": "sequential", "precompute_ref_log_probs": True},
}
"""Ways to train: with records in random order or those of like lengths together, and with the reference's
log-probabilities computed before the first step."""

BEST: dict[str, tuple[str, ...]] = {
    "dpo": ("padded, reference kept", "grouped, reference kept"),
    "orpo": ("padded", "grouped"),
    "kto": ("sequential, reference kept",),  # TRL makes the pairs of its KL term once, and asks for this order
    "reward": ("padded", "grouped"),
    "classification": ("padded", "grouped"),
}
"""Those of `SETTINGS` that may be the best for an objective. TRL 1.16 packs none of them (`padding_free` of DPO does
nothing)."""


def identical(payload: dict[str, Any]) -> dict[str, Any]:
    """Train the records of the global batches of the manifest `payload["job"]`, in their order and micro-batches."""
    forget_launcher()
    job = load_job(Path(payload["job"]))
    records = all_records(job)
    taken = [records[n] for batch in global_batches(job) for n in numbers(batch.all_rows)]
    run(*make_trainer(job, taken, Path(payload["workdir"]), {"train_sampling_strategy": "sequential"}))
    return {}


def raw(payload: dict[str, Any]) -> dict[str, Any]:
    """Train all records of the manifest `payload["job"]`, with the `SETTINGS` named `payload["setting"]`."""
    forget_launcher()
    job = load_job(Path(payload["job"]))
    run(*make_trainer(job, all_records(job), Path(payload["workdir"]), SETTINGS[payload["setting"]]))
    return {}


def all_records(job: FineTuneJob) -> list[Record]:
    """The records of the manifest's one file."""
    (source,) = job.spec.data.train
    return [json.loads(line) for line in Path(source.uri.removeprefix("file://")).read_text().splitlines()]


def numbers(rows: Any) -> Iterator[int]:
    """Places of the records of `rows` in their file, each once, in order."""
    names = dict.fromkeys(chain.from_iterable(row.records for row in rows))
    return (int(name.rpartition("#")[2]) - 1 for name in names)


def make_trainer(job: FineTuneJob, records: list[Record], folder: Path, options: dict[str, Any]) -> tuple[Any, float]:
    """The peer's trainer with the manifest's optimizer, and how many seconds it took to prepare its data."""
    kind = str(job.spec.objective.type)
    shared = trl_sft.training_options(job, 1, folder) | ENDLESS | options
    tokenizer = load_tokenizer(trl_sft.model_folder(job))
    started = time.monotonic()
    made = MAKERS[kind](job, records, shared, tokenizer)
    return made, time.monotonic() - started


def dpo(job: FineTuneJob, records: list[Record], options: dict[str, Any], tokenizer: Any) -> Any:
    """TRL's, with a second model unless the reference is computed once."""
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    config = DPOConfig(**options, max_length=LONG, remove_unused_columns=False)  # grouping asks for `length`
    reference = None if config.precompute_ref_log_probs else plain_model(job)
    return DPOTrainer(
        plain_model(job), reference, config, train_dataset=as_dataset(records), processing_class=tokenizer
    )


def kto(job: FineTuneJob, records: list[Record], options: dict[str, Any], tokenizer: Any) -> Any:
    """The same for KTO."""
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    config = KTOConfig(**options, max_length=job.spec.data.max_length)  # cuts what its KL term pairs, as ours does
    reference = None if config.precompute_ref_log_probs else plain_model(job)
    return KTOTrainer(
        plain_model(job), reference, config, train_dataset=as_dataset(records), processing_class=tokenizer
    )


def orpo(job: FineTuneJob, records: list[Record], options: dict[str, Any], tokenizer: Any) -> Any:
    """TRL's, which is in `trl.experimental`."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    config = ORPOConfig(**options, max_length=LONG)
    return ORPOTrainer(plain_model(job), config, train_dataset=as_dataset(records), processing_class=tokenizer)


def reward(job: FineTuneJob, records: list[Record], options: dict[str, Any], tokenizer: Any) -> Any:
    """TRL's, on a sequence classifier with one score."""
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    config = RewardConfig(**options, max_length=LONG, remove_unused_columns=False)  # as in `dpo`
    model = plain_model(job, kind="AutoModelForSequenceClassification")
    return RewardTrainer(model, config, train_dataset=as_dataset(records), processing_class=tokenizer)


def classification(job: FineTuneJob, records: list[Record], options: dict[str, Any], tokenizer: Any) -> Any:
    """transformers' own trainer: TRL has none."""
    from transformers import Trainer, TrainingArguments

    ids = [{"input_ids": tokenizer(one["text"])["input_ids"], "labels": LABELS.index(one["label"])} for one in records]
    model = plain_model(job, kind="AutoModelForSequenceClassification")
    return Trainer(model, TrainingArguments(**options), train_dataset=as_dataset(ids), processing_class=tokenizer)


MAKERS = {"DPO": dpo, "KTO": kto, "ORPO": orpo, "Reward": reward, "Classification": classification}
LONG = 1_000_000  # nothing is cut: `Workload` has no document that is too long


def as_dataset(records: list[Record]) -> Any:
    """Records as TRL takes them, with a `length` that roughly says which are alike."""
    from datasets import Dataset

    return Dataset.from_list([record | {"length": sum(map(size, record.values()))} for record in records])


def size(value: Any) -> int:
    """Characters of a text, tokens of a list."""
    return len(value) if isinstance(value, str | list) else 0


def run(trainer: Any, preparation: float) -> None:
    """Train for ever, in turns; counts the tokens of the trained documents that are no padding, and notes the losses.

    What a peer computes beside its loss (KL completions) is not counted, as it is not in our progress.
    """
    from transformers import TrainerCallback

    turns = Turns(WARM_UP)
    tokens, losses = 0, []
    compute_loss = trainer.compute_loss

    def counted(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal tokens
        masks = [name for name in inputs if name.endswith("attention_mask") and name[:2] not in ("KL", "pr")]
        tokens += sum(int(inputs[name].sum()) for name in masks)
        loss = compute_loss(model, inputs, *args, **kwargs)
        losses.append(float(loss.detach()))
        return loss

    class TakeTurns(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            nonlocal tokens
            turns.note(preparation=preparation, losses=list(losses))
            turns.step_finished(tokens)
            tokens = 0

    trainer.compute_loss = counted
    trainer.add_callback(TakeTurns())
    trainer.train()
