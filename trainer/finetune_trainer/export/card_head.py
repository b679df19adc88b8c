"""What a model card says of a model that scores texts: how it is used, and what it scored on held-out data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_trainer.export.adapter import base_reference
from finetune_trainer.export.card_evaluation import number
from finetune_trainer.spec import FineTuneJob, ObjectiveType, OutputFormat

ADAPTER = """from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

config = AutoConfig.from_pretrained("{folder}")
base = AutoModelForSequenceClassification.from_pretrained("{base}", config=config, dtype="auto")
model = PeftModel.from_pretrained(base, "{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
"""
WHOLE = """from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("{folder}", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
"""
REWARDS = """ids = tokenizer.apply_chat_template(messages, return_tensors="pt")  # the prompt and its answer
reward = model(ids["input_ids"]).logits[0, 0]"""
SCORES = """scores = model(**tokenizer(text, return_tensors="pt")).logits[0]  # by the ids of `model.config.id2label`"""


def head_usage(job: FineTuneJob, folder: str) -> str:
    """Python that loads the export, which lies in `folder`, and asks for a score."""
    load = ADAPTER if job.spec.output.format == OutputFormat.ADAPTER else WHOLE
    asks = REWARDS if job.spec.objective.type == ObjectiveType.REWARD else SCORES
    code = load.format(folder=folder, base=base_reference(job.spec.model.uri)[0]) + "\n" + asks
    return f"```python\n{code}\n```"


def metric_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Set, metric, what it was before training and is now, of every metric of every held-out set."""
    return [
        [name, metric, number(result["baseMetrics"].get(name, {}).get(metric)), number(value)]
        for name, metrics in result["evalMetrics"].items()
        for metric, value in metrics.items()
    ]
