"""The verdict: paired, with an interval that holds what it promises, and honest both ways."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_trainer.evaluation.overfitting import overfitting
from finetune_trainer.evaluation.report import findings, in_brief
from finetune_trainer.evaluation.sides import Before, Contaminated, SetBefore, Side
from finetune_trainer.evaluation.verdict import LOSS, NATS, Outcome, bootstrap, loss_of, verdict
from finetune_trainer.export.card_evaluation import evaluation_part
from finetune_trainer.report.findings import parts

RECORDS = [f"file#{number}" for number in range(100)]


def scores(values: object) -> dict[str, float]:
    return dict(zip(RECORDS, np.asarray(values, dtype=float).tolist(), strict=False))


def test_the_interval_is_the_one_of_the_normal_distribution_for_many_records() -> None:
    values = np.random.default_rng(3).normal(0.3, 1.0, 2000)
    found = bootstrap(values)
    error = values.std() / np.sqrt(len(values))
    assert found.difference == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=2e-3
    )


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    draws = np.random.default_rng(5)
    held = 0
    for _ in range(100):
        found = bootstrap(draws.choice([-1.0, 0.0, 1.0], 60, p=[0.2, 0.4, 0.4]))
        held += found.low <= 0.2 <= found.high
    assert 89 <= held <= 99


def test_a_model_that_is_better_on_most_records_is_called_so() -> None:
    base, tuned = scores([0] * 60 + [1] * 40), scores([0] * 20 + [1] * 80)
    found = verdict("exactMatch", tuned, base, scores([0] * 50 + [1] * 50), shots=4)
    assert found is not None
    assert (found.outcome, found.against, found.records) == (Outcome.IMPROVED, "prompted", 100)
    assert found.gain.difference == pytest.approx(0.3)
    assert found.text.startswith(
        "Fine-tuning beat prompting with 4 examples by 0.300 points of exactMatch, 0.800 against"
    )


def test_a_model_that_prompting_matches_is_not_called_better_though_it_beats_the_plain_one() -> None:
    tuned, prompted = np.arange(100) % 2, (np.arange(100) + 1) % 2
    found = verdict("exactMatch", scores(tuned), scores([0] * 100), scores(prompted), shots=2)
    assert found is not None
    assert found.outcome is Outcome.NOT_IMPROVED
    assert found.text.startswith("Fine-tuning did not beat prompting with 2 examples: 0.500 against 0.500 exactMatch")


def test_examples_that_confuse_the_model_do_not_make_training_look_better() -> None:
    found = verdict("rougeL", scores([0.5] * 100), scores([0.5] * 100), scores([0.1] * 100), shots=4)
    assert found is not None
    assert (found.against, found.outcome) == ("base", Outcome.NOT_IMPROVED)


def test_a_lower_loss_is_better_and_a_higher_one_is_said_to_be_worse() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 100)
    better = verdict(LOSS, scores(1.5 + noise), scores(2.0 + noise / 2))
    worse = verdict(LOSS, scores(2.0 + noise), scores(1.5 + noise / 2))
    assert better is not None
    assert worse is not None
    assert (better.outcome, worse.outcome) == (Outcome.IMPROVED, Outcome.NOT_IMPROVED)
    assert better.gain.difference == pytest.approx(0.5, abs=0.02)
    assert "and is worse" in worse.text


def test_pairing_finds_a_small_gain_that_is_the_same_on_every_record() -> None:
    hard = np.linspace(0.5, 5.0, 100)
    found = verdict(LOSS, scores(hard - 0.01), scores(hard))
    assert found is not None
    assert found.outcome is Outcome.IMPROVED


def test_only_records_that_every_model_has_are_compared_whatever_their_order() -> None:
    base, tuned = scores(np.linspace(1, 2, 100)), scores(np.linspace(0.9, 2, 100))
    shuffled = {record: base[record] for record in reversed(RECORDS[:40])}
    assert verdict(LOSS, tuned, shuffled) == verdict(LOSS, {record: tuned[record] for record in RECORDS[:40]}, base)


def test_a_handful_of_records_gives_no_verdict() -> None:
    assert verdict("exactMatch", scores([1] * 9), scores([0] * 9)) is None


def side(losses: object, **metrics: object) -> Side:
    return Side(losses=scores(losses), scores={name: scores(values) for name, values in metrics.items()})


def test_the_first_metric_decides_over_all_sets_that_have_it() -> None:
    before = Before(
        sets={
            "texts": SetBefore(base=side([1.0] * 20)),
            "one": SetBefore(base=side([1.0] * 20, f1=[0.2] * 20)),
            "other": SetBefore(base=side([1.0] * 20, f1=[0.6] * 20)),
        },
        forgetting={"general text": 3.0},
    )
    after = {
        "texts": side([2.0] * 20),
        "one": side([2.0] * 20, f1=[0.8] * 20),
        "other": side([2.0] * 20, f1=[0.8] * 20),
    }
    metrics = {"texts": [], "one": ["f1"], "other": ["f1"]}
    found = findings(metrics, before, after, {"general text": 3.25}, None, [])
    assert (found["verdict"]["records"], found["verdict"]["outcome"]) == (40, "Improved")
    assert found["verdict"]["gain"]["difference"] == pytest.approx(0.4)
    assert [one["verdict"]["outcome"] for one in found["sets"]] == ["NotImproved", "Improved", "Improved"]
    assert found["sets"][1]["means"] == {
        "f1": {"base": pytest.approx(0.2), "prompted": None, "tuned": pytest.approx(0.8)},
        "loss": {"base": 1.0, "prompted": None, "tuned": 2.0},
    }
    assert in_brief(found)["forgetting"] == {"general text": 0.25}


def test_forgetting_is_said_in_what_it_was_measured_in() -> None:
    before = Before(sets={"one": SetBefore(base=side([1.0] * 20))}, forgetting={"general text": 3.0, "aside": 0.5})
    now = {"general text": 3.25, "aside": 0.75}
    after = {"one": side([0.5] * 20)}
    units = {
        NATS: ["nats per token", "nats per token"],
        loss_of("DPO"): ["nats per token", "DPO loss"],
    }
    for loss, expected in units.items():
        found = findings({"one": []}, before, after, now, None, [], loss)
        assert [one["unit"] for one in found["forgetting"]] == expected
        card = "\n".join(evaluation_part(found))
        assert f"Loss on aside: 0.5000 before training, 0.7500 after (+0.2500 {expected[1]})." in card
        shown = {one.name: one.metrics[0].name for one in parts(found)["forgetting"]}
        assert shown == {"general text": "loss", "aside": "loss" if loss == NATS else "DPO loss"}


def test_held_out_records_that_were_trained_on_are_said_beside_the_verdict() -> None:
    dirty = Contaminated(name="one", exact=3, near=2, records=20, train_records=80)
    before = Before(sets={"one": SetBefore(base=side([2.0] * 20))}, contamination=[dirty])
    found = findings({"one": []}, before, {"one": side([1.0] * 20)}, {}, None, [])
    assert found["verdict"]["text"].endswith("But 5 of 20 held-out records are training records too, or nearly.")
    assert in_brief(found)["contaminated"] == {"one": 5}


def test_without_the_model_before_training_there_is_no_verdict_but_a_reason() -> None:
    found = findings({"one": ["f1"]}, Before(), {"one": side([1.0] * 20, f1=[0.5] * 20)}, {}, None, [])
    assert (found["verdict"], found["sets"][0]["means"]["f1"]["tuned"]) == (None, 0.5)
    assert "was not evaluated" in found["note"]


def history(held_out: list[float]) -> list[dict[str, float]]:
    return [{"step": 0, "evalLoss": 9.0}] + [
        record
        for number, loss in enumerate(held_out, start=1)
        for record in ({"step": number, "loss": 2.0 - number / 10}, {"step": number, "evalLoss": loss})
    ]


def test_a_held_out_loss_that_rises_after_its_best_is_overfitting() -> None:
    found = overfitting(history([2.0, 1.5, 1.6, 1.9]), 2)
    assert found is not None
    assert (found.overfits, found.best_step, found.last_step) == (True, 2, 4)
    assert found.gap == pytest.approx(1.9 - (1.9 + 1.8 + 1.7 + 1.6) / 4)
    assert "step 2 is exported" in found.text


def test_a_loss_that_stays_near_zero_is_not_overfitting_for_its_digits() -> None:
    found = overfitting([{"step": 0, "evalLoss": 0.69}, *history([0.1, 0.001, 0.0013])[1:]], 2)
    assert found is not None
    assert not found.overfits
    risen = overfitting([{"step": 0, "evalLoss": 0.69}, *history([0.1, 0.001, 0.02])[1:]], 2)
    assert risen is not None
    assert risen.overfits
    below = overfitting(history([-1.0, -2.0, -1.999]), 2)
    assert below is not None
    assert not below.overfits


def test_noise_of_the_last_steps_and_a_single_evaluation_are_none() -> None:
    found = overfitting(history([2.0, 1.5, 1.501]), 3)
    assert found is not None
    assert not found.overfits
    assert overfitting(history([2.0]), 1) is None
