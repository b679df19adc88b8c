"""The report's page: what is on it, and what a real browser makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import Browser, NoBrowser, find_browser
from example_report import BEGIN, SCRIPT, example_report
from finetune_trainer.report.charts import pictures
from finetune_trainer.report.data import Report, evaluations_of, steps_of
from finetune_trainer.report.page import report
from finetune_trainer.report.tables import sections

PHONE, DESKTOP = 390, 1280
EMPTY = Report(name="a", run_id="default.a", written=BEGIN, job={"kind": "FineTuneJob"})


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real one; skipped, and so failed in CI, where there is none and none can be installed."""
    try:
        program = find_browser()
    except NoBrowser as error:
        pytest.skip(str(error))
    with Browser(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report(example_report()))
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_page_fits_the_window_and_asks_for_nothing(browser: Browser, page: Path, width: int, dark: bool) -> None:
    seen = browser.look(page, width, dark=dark)
    assert seen.title == "support-bot - fine-tuning report", "no script of a sample ran"
    assert seen.width == width, seen.wide
    assert seen.wide == []
    assert seen.requests == [page.as_uri()]
    assert seen.complaints == []


def test_curves_are_drawn_in_the_colours_of_the_window(browser: Browser, page: Path) -> None:
    light, dark = (browser.look(page, DESKTOP, dark=dark).colours for dark in (False, True))
    assert len(light) == len(dark)
    assert len(light) > 20
    assert not set(light) & set(dark), "every line and text has another colour in the dark"


def test_page_prints(browser: Browser, page: Path) -> None:
    browser.look(page, DESKTOP)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12


def test_texts_from_data_are_escaped_everywhere() -> None:
    hostile = example_report(
        name=SCRIPT,
        run_id=SCRIPT,
        warnings=(SCRIPT,),
        job={"spec": {"model": {"uri": SCRIPT}}},
        versions={SCRIPT: SCRIPT},
        audit={"sample": [{"text": SCRIPT, "trained": True}], "sources": [], "isolation": SCRIPT},
        evaluations=tuple(
            one.model_copy(update={"sets": {SCRIPT: one.loss, "b": one.loss}}) for one in example_report().evaluations
        ),
        held_out=(),
    )
    text = report(hostile)
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "<img" not in text


def test_same_data_gives_the_same_page() -> None:
    assert report(example_report(steps=50)) == report(example_report(steps=50))


def test_data_survives_json() -> None:
    data = example_report(steps=20)
    assert Report.model_validate_json(data.model_dump_json()) == data


def test_page_without_data_has_only_the_manifest() -> None:
    text = report(EMPTY)
    assert re.findall(r'<h2 id="(\w+)"', text) == ["manifest"]
    assert re.findall(r'<a href="#(\w+)"', text) == ["manifest"]
    assert (pictures(EMPTY), sections(EMPTY)) == ([], [])
    assert "<dl" not in text
    assert 'class="verdict' not in text


def test_every_part_is_on_the_page_and_in_its_contents() -> None:
    text = report(example_report())
    names = ["curves", "evaluation", "forgetting", "data", "course", "samples", "audit", "manifest"]
    assert re.findall(r'<h2 id="(\w+)"', text) == names
    assert re.findall(r'<a href="#(\w+)"', text) == names
    titles = re.findall(r"<figcaption><h3>([^<]*)<", text)
    curves = ["Loss", "Held-out loss of each set", "Progress", "Throughput", "Learning rate", "Gradient norm", "Memory"]
    assert titles == curves
    for part in (
        "Fine-tuning beat prompting",
        "start after an interruption (2)",
        "checkpoint (10)",
        "torch",
        "rank: 16",
    ):
        assert part in text


def test_report_of_a_long_run_stays_small() -> None:
    assert len(report(example_report(steps=50_000)).encode()) < 300_000


@pytest.mark.parametrize(("after", "words", "tone"), [(1.5, "lowered", "good"), (2.5, "did not lower", "bad")])
def test_losses_alone_say_whether_training_helped(after: float, words: str, tone: str) -> None:
    first, *_ = example_report().evaluations
    before = first.model_copy(update={"loss": 2.0, "sets": {"a": 2.0}})
    later = first.model_copy(update={"step": 10, "loss": after, "sets": {"a": after}})
    text = report(EMPTY.model_copy(update={"evaluations": (before, later)}))
    assert f'class="verdict {tone}"' in text
    assert f"Training {words} the held-out loss" in text


def test_steps_without_a_finite_loss_leave_a_gap_and_no_error() -> None:
    steps = tuple(
        step.model_copy(update={"loss": None, "grad_norm": None}) if step.step % 3 == 0 else step
        for step in example_report(steps=30).steps
    )
    assert "Gradient norm" in report(example_report(steps=30, steps_=None).model_copy(update={"steps": steps}))


def test_what_an_objective_measures_has_its_curves_and_rows() -> None:
    step = {"learningRate": 0.1, "loss": 0.6, "epoch": 0.1, "rows": 4, "tokens": 9, "hostBytes": 5, "note": None}
    records: list[dict[str, Any]] = [{"step": 0, "evalLoss": 0.7, "evalLoss/a": 0.7, "eval/a/rewards/margin": 0.0}]
    records += [{"step": number, "rewards/margin": 0.1 * number, **step} for number in (1, 2, 3)]
    records += [{"step": 3, "evalLoss": 0.5, "evalLoss/a": 0.5, "eval/a/rewards/margin": 0.25}]
    steps, evaluations = steps_of(records), evaluations_of(records)
    assert [one.metrics for one in steps] == [{"rewards/margin": pytest.approx(0.1 * number)} for number in (1, 2, 3)]
    data = EMPTY.model_copy(update={"steps": steps, "evaluations": evaluations})
    assert [picture.title for picture in pictures(data)][:2] == ["Loss", "Rewards/margin"]
    (table,) = sections(data)[0].tables
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a", "loss", "0.7", "0.5", "+0.2"],
        ["a", "rewards/margin", "0", "0.25", "+0.25"],
    ]
    assert [row[-1].tone for row in table.rows] == ["up", ""], "which margin is better nobody says"
