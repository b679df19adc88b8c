"""What an evaluation came to, in a report."""

from __future__ import annotations

from typing import Any

from finetune_trainer.report.data import Report, evaluations_of, steps_of
from finetune_trainer.report.findings import parts
from finetune_trainer.report.page import report

GAIN = {"difference": 0.33, "low": 0.27, "high": 0.39}
VERDICT = {
    "outcome": "Improved",
    "metric": "exactMatch",
    "gain": GAIN,
    "text": "Fine-tuning beat prompting with 4 examples by 0.330 points of exactMatch, 0.640 against 0.310 "
    "(95 % interval of the difference +0.270 to +0.390, 512 records). But 14 held-out records are training records.",
}
FOUND: dict[str, Any] = {
    "version": 1,
    "verdict": VERDICT,
    "note": None,
    "sets": [
        {
            "name": "support",
            "records": 512,
            "shots": 4,
            "means": {
                "exactMatch": {"base": 0.02, "prompted": 0.31, "tuned": 0.64},
                "loss": {"base": 2.1, "prompted": None, "tuned": 2.5},
            },
            "verdict": VERDICT,
        }
    ],
    "samples": [{"set": "support", "record": "a#1", "prompt": "Why?", "reference": "So.", "tuned": "Because."}],
    "forgetting": [{"name": "general", "base": 2.3, "tuned": 2.36, "change": 0.06}],
    "overfitting": {"overfits": True, "text": "The held-out loss was lowest at step 40 of 100"},
    "contamination": [{"name": "support", "exact": 10, "near": 4, "records": 512}, {"name": "b", "exact": 0}],
}


def page(found: dict[str, Any]) -> str:
    return report(Report(name="a", run_id="a", written=0.0, job={}, **parts(found)))


def test_verdict_and_what_to_beware_of_stand_above_everything() -> None:
    text = page(FOUND)
    assert "<strong>Fine-tuning beat prompting with 4 examples by 0.330 points of exactMatch" in text
    assert "0.640 against 0.310.</strong>" in text
    assert "95 % interval of the difference +0.270 to +0.390, 512 records. But 14 held-out records" in text
    assert 'class="verdict good"' in text
    assert text.count("Look at this:") == 2
    assert "10 are training records too and 4 closely resemble one" in text
    assert "lowest at step 40" in text


def test_gain_is_over_the_better_model_before_and_red_where_it_is_none() -> None:
    text = page(FOUND)
    assert ">exact match</td>" in text
    assert 'class="n up">+0.33 (+0.27 to +0.39)<' in text
    assert 'class="n down">−0.4<' in text, "a loss that rose"
    assert 'class="n down">+0.06<' in text, "what was forgotten"


def test_gain_within_chance_has_no_colour() -> None:
    unsure = {**VERDICT, "gain": {**GAIN, "low": -0.01}, "outcome": "NotImproved"}
    text = page({**FOUND, "verdict": unsure, "sets": [{**FOUND["sets"][0], "verdict": unsure}]})
    assert 'class="n">+0.33 (−0.01 to +0.39)<' in text
    assert 'class="verdict bad"' in text


def test_answers_stand_beside_each_other_and_those_not_made_are_left_out() -> None:
    text = page(FOUND)
    assert "<h3>In the data</h3>" in text
    assert "<h3>After training</h3>" in text
    assert "Before training</h3>" not in text


def test_a_classifier_shows_its_labels_and_what_it_takes_for_what_and_no_perplexity() -> None:
    scores = {"precision": 0.75, "recall": 1.0, "f1": 0.8571, "texts": 3}
    details = {"labels": {"<b>": scores, "c": {**scores, "texts": 2}}, "confusion": [[3, 0], [1, 1]]}
    records = [
        {"step": step, "evalLoss": loss, "evalLoss/a": loss, "eval/a/macroF1": f1, "evalDetails/a": details}
        for step, loss, f1 in ((0, 0.7, 0.3), (4, 0.2, 0.8))
    ]
    job: Any = {"spec": {"objective": {"type": "Classification"}}}
    text = report(Report(name="a", run_id="a", written=0.0, job=job, evaluations=evaluations_of(records)))
    for part in (">macro F1<", ">&lt;b&gt;</td>", ">given &lt;b&gt;</th>", ">0.8571<", ">true in a</th>"):
        assert part in text
    assert "erplexity" not in text
    assert "Training lowered the held-out loss by" in text


def test_a_metric_that_the_first_step_has_not_is_drawn_too() -> None:
    records = [{"step": n, "learningRate": 1.0, **({"rewards/rejected": 0.5} if n > 1 else {})} for n in range(1, 5)]
    assert "Rewards/rejected" in report(Report(name="a", run_id="a", written=0.0, job={}, steps=steps_of(records)))


def test_findings_without_anything_give_a_page() -> None:
    assert page({}) == page({"verdict": None, "note": "no held-out records were compared", "overfitting": None})
