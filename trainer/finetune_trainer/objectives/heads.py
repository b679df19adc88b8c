"""Which objectives give the model a score head, and what it says."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from finetune_trainer.data import LabelSet
from finetune_trainer.model.score import ScoreHead
from finetune_trainer.spec import FineTuneJob, ObjectiveType, ProblemType

PROBLEM_TYPES = {
    ProblemType.SINGLE_LABEL: "single_label_classification",
    ProblemType.MULTI_LABEL: "multi_label_classification",
    ProblemType.REGRESSION: "regression",
}
"""What transformers calls them."""

REWARD = "reward"
NUMBER = "number"


def score_head(job: FineTuneJob, labels: LabelSet | None, tokenizer: PreTrainedTokenizerFast) -> ScoreHead | None:
    """The head of the job's objective, None where it trains a language model; `labels` are those of a classifier.

    A reward counts as a regression, so that transformers' pipelines hand it out as it is.
    """
    seed, pad_id = job.spec.training.seed, tokenizer.pad_token_id
    assert isinstance(pad_id, int)  # `model.tokenizer.load_tokenizer` sees to it
    if job.spec.objective.type is ObjectiveType.REWARD:
        return ScoreHead((REWARD,), PROBLEM_TYPES[ProblemType.REGRESSION], pad_id, seed)
    if labels is None:
        return None
    return ScoreHead(labels.names or (NUMBER,), PROBLEM_TYPES[labels.problem], pad_id, seed)
