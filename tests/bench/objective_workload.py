"""What the objectives' contestants train on: the bench's model and words, as pairs, judged answers and labelled texts.

Score heads are saved with the models, so that all contestants begin with the same one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.workload import SEED, Workload

LABELS = ("first", "second", "third")
RECORDS = 120
"""Few, for the log-probabilities of references are computed of all of them before the first step."""

PAIRS = 2
"""Documents of a pair: its row is as long as two of them, and it counts twice."""


@dataclass(frozen=True)
class Task:
    """How one objective is asked for and measured.

    `data` and `model`: names of a file and of a folder of `ObjectiveWorkload`. `options`: of `spec.objective`, to train
    alike, `best` what replaces them, if anything, where each trainer has its best settings. `documents`: of a record.
    """

    type: str
    data: str
    model: str
    documents: int
    options: dict[str, Any]
    best: dict[str, Any] | None = None


TASKS = {
    "dpo": Task("DPO", "pairs", "model", PAIRS, {"dpo": {"reference": "Copy"}}, {"dpo": {"reference": "Precomputed"}}),
    "orpo": Task("ORPO", "pairs", "model", PAIRS, {}),
    "kto": Task("KTO", "judged", "model", 1, {"kto": {"reference": "Copy"}}),
    "reward": Task("Reward", "pairs", "reward", PAIRS, {}),
    "classification": Task("Classification", "labelled", "classifier", 1, {"classification": {"labels": LABELS}}),
}


@dataclass(frozen=True)
class ObjectiveWorkload:
    """The files of the objectives below `base.folder`: `<data>.jsonl`, and the models with a score head."""

    base: Workload

    def manifest(self, name: str, objective: str, *, packing: str, best: bool = False) -> Path:
        """A full fine-tuning for one of `TASKS`, as a file.

        Unless each one's `best` settings race, a step is one micro-batch: what TRL takes a mean of is then what we do.
        ZeRO is off: all is one process, and TRL shards nothing either.
        """
        task, scale = TASKS[objective], self.base.scale
        document = json.loads(self.base.manifest(name, packing=packing, zero_stage=0).read_text())
        spec, packed = document["spec"], packing != "None"
        spec["model"]["uri"] = f"file://{self.base.folder}/{task.model}"
        spec["objective"] = {"type": task.type, **(task.best if best and task.best else task.options)}
        source = {"uri": f"file://{self.base.folder}/{task.data}.jsonl"}
        spec["data"] |= {"train": [source], "overlong": "Drop", "maxLength": scale.max_length * task.documents}
        documents = (scale.documents, scale.micro_documents) if best else (2 * scale.micro_documents,) * 2
        rows, micro = (scale.rows, task.documents) if packed else documents
        spec["training"] |= {"globalBatchSize": rows // task.documents, "microBatchSize": micro // task.documents}
        path = self.base.folder / f"{name}.yaml"
        path.write_text(json.dumps(document))
        return path


def make_objective_workload(base: Workload) -> ObjectiveWorkload:
    """Write the records and the models with score heads; the same bytes for the same scale."""
    made: list[dict[str, Any]] = list(islice(pairs(base.folder / "train.jsonl"), RECORDS))
    judged = [{"prompt": p["prompt"], "completion": p["chosen"], "label": n % 2 == 0} for n, p in enumerate(made)]
    labelled = [{"text": p["prompt"] + p["chosen"], "label": LABELS[n % len(LABELS)]} for n, p in enumerate(made)]
    files: dict[str, list[dict[str, Any]]] = {"pairs": made, "judged": judged, "labelled": labelled}
    for name, records in files.items():
        (base.folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    save_scorer(base.folder, "reward", ("reward",))
    save_scorer(base.folder, "classifier", LABELS)
    return ObjectiveWorkload(base)


def pairs(answered: Path) -> Iterator[dict[str, Any]]:
    """Of prompts with answers: each prompt with its own answer and that of the next, no longer than the longest one."""
    records = [json.loads(line) for line in answered.read_text().splitlines()]
    texts = [(record["prompt"], record["completion"]) for record in records]
    longest = max(len(prompt.split()) + len(answer.split()) for prompt, answer in texts)
    for n, (prompt, answer) in enumerate(texts):
        other = texts[n - 1][1].split()[: max(1, longest - len(prompt.split()))]
        rejected = "".join(f" {word}" for word in other)
        if rejected != answer:
            yield {"prompt": prompt, "chosen": answer, "rejected": rejected}


def save_scorer(folder: Path, name: str, labels: tuple[str, ...]) -> None:
    """The language model in `folder`/model as a sequence classifier with a head of random weights."""
    torch.manual_seed(SEED)
    load: Any = transformers.AutoModelForSequenceClassification
    model = load.from_pretrained(
        folder / "model",
        dtype=torch.float32,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: n for n, label in enumerate(labels)},
        problem_type="regression" if len(labels) == 1 else "single_label_classification",
    )
    model.save_pretrained(folder / name)
    transformers.AutoTokenizer.from_pretrained(folder / "model").save_pretrained(folder / name)
