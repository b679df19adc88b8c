"""Metrics of answers: one module each, registered here by its type in the manifest.

A further one is a module like `rouge`, its value in `spec.metric.MetricType`, and a line in `_MADE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from finetune_trainer.evaluation.metrics.choice import Choice
from finetune_trainer.evaluation.metrics.json_answers import JsonFields, JsonValid
from finetune_trainer.evaluation.metrics.metric import Metric
from finetune_trainer.evaluation.metrics.regex import Regex
from finetune_trainer.evaluation.metrics.rouge import RougeL
from finetune_trainer.evaluation.metrics.words import ExactMatch, TokenF1
from finetune_trainer.spec import Metric as MetricSpec
from finetune_trainer.spec import MetricType

__all__ = ["Metric", "make_metric", "metric_name"]

_MADE: Mapping[MetricType, Callable[[MetricSpec], Metric]] = {
    MetricType.EXACT_MATCH: lambda spec: ExactMatch(),
    MetricType.TOKEN_F1: lambda spec: TokenF1(),
    MetricType.ROUGE_L: lambda spec: RougeL(),
    MetricType.JSON_VALID: lambda spec: JsonValid(),
    MetricType.JSON_FIELDS: lambda spec: JsonFields(spec.fields),
    MetricType.CHOICE: lambda spec: Choice(spec.choices),
    MetricType.REGEX: lambda spec: Regex(spec.pattern or ""),
}


def make_metric(spec: MetricSpec) -> Metric:
    """The metric that a manifest asks for."""
    return _MADE[spec.type](spec)


def metric_name(spec: MetricSpec) -> str:
    """Its name in results: the type, `exactMatch`."""
    return f"{spec.type[0].lower()}{spec.type[1:]}"
