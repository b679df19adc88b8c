"""Loss, gradients and metrics of every objective on one batch of records equal those of TRL's own trainers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import preference_data
from finetune_trainer.data import DataSettings, EvalSet, Row, build_index, list_sources
from finetune_trainer.engine.batch import Forward
from finetune_trainer.engine.collectives import ControlGroup
from finetune_trainer.engine.loss import Objective, means
from finetune_trainer.model.head import KeptPositions
from finetune_trainer.model.load import load_model
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.objectives.dpo import DirectPreference
from finetune_trainer.objectives.kto import KahnemanTversky
from finetune_trainer.objectives.orpo import OddsRatio
from finetune_trainer.objectives.reference import FrozenCopy
from finetune_trainer.spec import EvalSource
from finetune_trainer.spec.data import Format, Overlong, Packing
from finetune_trainer.spec.objective import DPO, KTO, ORPO, DPOLoss
from ranks import run_ranks
from small_job import make_small_job
from tiny_models import save

TOLERANCE = 1e-5
PAIRS, JUDGED = 5, 7
METRICS = {
    "rewards/chosen": "rewards/chosen",
    "rewards/rejected": "rewards/rejected",
    "rewards/accuracy": "rewards/accuracies",
    "rewards/margin": "rewards/margins",
    "kl": "kl",
    "nll": "nll_loss",
    "logOddsRatio": "log_odds_ratio",
}
"""TRL's name of each of our metrics."""


@dataclass(frozen=True)
class Case:
    """`trl`: the options of TRL's trainer that mean the same as `options`; `records`: of the batch."""

    kind: str
    options: Any
    trl: dict[str, Any]
    records: list[dict[str, Any]]


def pairs(make: Any = preference_data.pair, count: int = PAIRS) -> list[dict[str, Any]]:
    return [make(number) for number in range(count)]


CASES = {
    "dpo": Case("DPO", DPO(beta=0.3), {"beta": 0.3, "loss_type": "sigmoid"}, pairs()),
    "dpo of texts": Case("DPO", DPO(), {"loss_type": "sigmoid"}, pairs(preference_data.plain_pair)),
    "dpo with prompts inside": Case(
        "DPO", DPO(), {"loss_type": "sigmoid"}, [preference_data.implicit(one) for one in pairs()]
    ),
    "ipo": Case("DPO", DPO(loss=DPOLoss.IPO), {"loss_type": "ipo"}, pairs()),
    "hinge": Case("DPO", DPO(beta=0.5, loss=DPOLoss.HINGE), {"beta": 0.5, "loss_type": "hinge"}, pairs()),
    # Of one pair, which sorting leaves as it is, TRL's `aot` is the smoothed sigmoid.
    "dpo smoothed": Case("DPO", DPO(label_smoothing=0.2), {"loss_type": "aot", "label_smoothing": 0.2}, pairs(count=1)),
    "orpo": Case("ORPO", ORPO(beta=0.25), {"beta": 0.25}, pairs(preference_data.plain_pair)),
    "kto": Case(
        "KTO",
        KTO(beta=0.2, desirable_weight=1.0, undesirable_weight=1.5),
        {"beta": 0.2, "desirable_weight": 1.0, "undesirable_weight": 1.5},
        [preference_data.judged(number) for number in range(JUDGED)],
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy and another model as its reference, one tokenizer, and the records of each case."""
    made = tmp_path_factory.mktemp("trl")
    tokenizer = load_tokenizer(make_small_job(made).folder / "model")
    assert isinstance(tokenizer.chat_template, str)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>\n", "<|im_end|>")  # TRL trains what follows
    save("llama", made / "reference", seed=7, vocab_size=len(tokenizer))
    for model in ("model", "reference"):
        tokenizer.save_pretrained(made / model)
    for name, case in CASES.items():
        (made / name).mkdir()
        preference_data.write(made / f"{name}.jsonl", case.records)
    return made


@pytest.fixture(scope="module")
def theirs(folder: Path) -> dict[str, dict[str, Any]]:
    cases = {
        name: {"trainer": case.kind, "data": str(folder / f"{name}.jsonl"), "options": case.trl}
        for name, case in CASES.items()
    }
    models = {"policy": str(folder / "model"), "reference": str(folder / "reference")}
    payload = {"folder": str(folder), "cases": cases, **models}
    return run_ranks(1, "tests/trainer/parity/trl_objectives.py:losses", payload, timeout=240)[0]


@pytest.mark.parametrize("packing", ["BestFit", "None"])
@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_metrics_equal_those_of_trl(
    name: str, packing: str, folder: Path, theirs: dict[str, dict[str, Any]], process_group: None
) -> None:
    case, expected = CASES[name], theirs[name]
    model: Any = load_model(folder / "model", dtype=torch.float32)
    rows = rows_of(folder, name, case.kind, packing)
    assert any(len(row.records) > 2 for row in rows) == (packing == "BestFit" and len(case.records) > 1)
    forward = Forward(KeptPositions(model), torch.device("cpu"), pad_id=0, alone=packing == "None")
    ours = objective(case, forward, folder / "reference")
    whole = ours.prepare(model, rows, ControlGroup.create(60))
    loss = ours.loss(model, rows, whole)
    torch.autograd.backward(loss.total / ours.weight(rows))
    assert float(loss.total.detach()) / ours.weight(rows) == pytest.approx(expected["loss"], rel=TOLERANCE)
    for parameter, gradient in load_file(folder / name / "gradients.safetensors").items():
        found = model.get_parameter(parameter).grad
        torch.testing.assert_close(found, gradient, rtol=TOLERANCE, atol=TOLERANCE * float(gradient.abs().max()))
    measured = means(ours.metrics, loss.sums.flatten().tolist())
    assert measured == {own: pytest.approx(expected["metrics"][METRICS[own]], rel=1e-4, abs=1e-6) for own in measured}
    assert set(measured) == set(ours.metrics)


def rows_of(folder: Path, name: str, kind: str, packing: str) -> list[Row]:
    """The records in their order, in one row or in rows of their own."""
    format_ = Format.UNPAIRED_PREFERENCE if kind == "KTO" else Format.AUTO
    source = EvalSource(uri=f"file://{folder}/{name}.jsonl", format=format_, name="batch")
    settings = DataSettings(512, 8, 8, epochs=1, overlong=Overlong.DROP, packing=Packing(packing), paired=kind != "KTO")
    index = build_index(list_sources([source], "spec.data.eval"))
    ((_, rows),) = EvalSet("batch", index, settings, load_tokenizer(folder / "model")).parts(8)
    return list(rows)


def objective(case: Case, forward: Forward, reference: Path) -> Objective:
    if case.kind == "ORPO":
        return OddsRatio(forward, case.options)
    other: Any = load_model(reference, dtype=torch.float32)
    frozen = FrozenCopy(Forward(KeptPositions(other), forward.device, forward.pad_id, alone=forward.alone), other)
    if case.kind == "KTO":
        return KahnemanTversky(forward, frozen, case.options, max_length=512, rows_at_a_time=2)
    return DirectPreference(forward, frozen, case.options)
