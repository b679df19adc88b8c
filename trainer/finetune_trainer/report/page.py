"""The page: a pure function from a report's data to one HTML document.

Everything that comes from data is escaped by the template engine, and the page's policy (Content-Security-Policy)
lets a browser neither run a script nor fetch anything, also if that should ever fail.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from ruamel.yaml import YAML

from finetune_trainer.report import words
from finetune_trainer.report.audit_facts import facts, sample
from finetune_trainer.report.charts import Key, Picture, pictures
from finetune_trainer.report.data import Report, Sample, Verdict
from finetune_trainer.report.tables import Section, sections

MOST_SAMPLES = 24
WIDEST = 4096
"""Characters of a line of YAML: none is broken."""

LONGEST_TEXT = 4000
"""Characters of each of a sample's texts that are shown."""


class Number(NamedTuple):
    """A figure at the top of the page."""

    name: str
    value: str
    note: str = ""


def report(data: Report) -> str:
    """The document; the same for the same data. Parts of it that there is no data for are left out."""
    drawn, tables = pictures(data), sections(data)
    verdict = data.verdict or _verdict(data)
    page: dict[str, Any] = {
        "name": data.name,
        "run_id": data.run_id,
        "state": "finished" if data.state == "Finished" else _how_far(data),
        "subtitle": _subtitle(data),
        "verdict": verdict,
        "verdict_class": "" if verdict is None or verdict.good is None else "good" if verdict.good else "bad",
        "warnings": data.warnings,
        "numbers": _numbers(data),
        "pictures": [one._asdict() for one in map(_Drawn.of, drawn)],
        "tables": tables,
        "samples": [_shown(one) for one in data.samples[:MOST_SAMPLES]],
        "facts": list(facts(data.audit).items()),
        "masked": sample(data.audit),
        "manifest": _yaml(data.job),
        "versions": ", ".join(f"{name}\N{NO-BREAK SPACE}{version}" for name, version in data.versions.items()),
        "written": words.moment(data.written),
    }
    page["sections"] = _contents(data, drawn, tables)
    template, css = _sources()
    return template.render(page=page, css=css)


class _Drawn(NamedTuple):
    title: str
    note: str
    legend: tuple[Key, ...]
    svg: str
    axis: str

    @classmethod
    def of(cls, one: Picture) -> _Drawn:
        return cls(one.title, one.note, one.keys, one.svg, one.axis)


@cache
def _sources() -> tuple[Template, Any]:
    from markupsafe import Markup

    loader = PackageLoader("finetune_trainer.report", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    css = loader.get_source(environment, "page.css")[0]
    return environment.get_template("page.html.jinja"), Markup(css)


def _subtitle(data: Report) -> str:
    spec: Any = data.job.get("spec") or {}
    parts = [
        (spec.get("model") or {}).get("uri"),
        (spec.get("method") or {}).get("type"),
        (spec.get("objective") or {}).get("type"),
    ]
    return " · ".join(str(part) for part in parts if part)


def _how_far(data: Report) -> str:
    return "running" if data.percent is None else f"running, {data.percent:.0f} %"


def _losses(data: Report) -> tuple[float | None, float | None, int]:
    """Held-out loss before training and now, and the step of the latter: the exported one, else the best so far."""
    before = next((one.loss for one in data.evaluations if one.step == 0), None)
    later = [one for one in data.evaluations if one.step and one.loss is not None]
    exported = data.result.get("exportedStep")
    chosen = [one for one in later if one.step == exported] or sorted(later, key=lambda one: one.loss or 0.0)[:1]
    return before, chosen[-1].loss if chosen else None, chosen[-1].step if chosen else 0


def _verdict(data: Report) -> Verdict | None:
    """What the held-out losses alone say."""
    before, after, step = _losses(data)
    if before is None or after is None:
        return None
    until = "" if data.state == "Finished" else " so far"
    moved = f"from {before:.4g} to {after:.4g}"
    text = "Held-out loss alone does not say how much of it is chance."
    if data.of_language:
        text = (
            f"Perplexity {words.perplexity(before)} before training, {words.perplexity(after)} at step {step:,}. "
            "Loss says how well the held-out answers are predicted, not yet whether the task is done better."
        )
    if after < before:
        share = words.percent((before - after) / before) if before > 0 else "some"
        return Verdict(good=True, title=f"Training lowered the held-out loss by {share}{until}, {moved}.", text=text)
    return Verdict(good=False, title=f"Training did not lower the held-out loss{until}: it went {moved}.", text=text)


def _numbers(data: Report) -> list[Number]:
    before, after, step = _losses(data)
    found = []
    if after is not None:
        note = f"{words.value(before)} before training" if before is not None else f"at step {step:,}"
        found.append(Number("Held-out loss", words.value(after), note))
    if data.steps:
        found += _progress(data)
    share: Any = data.audit.get("trainableShare")
    if share is not None:
        coverage: Any = data.audit.get("coverage") or {}
        trained = coverage.get("trainedParameters")
        note = f"{words.amount(trained)} parameters" if trained else ""
        found.append(Number("Trained", words.percent(share), note))
    starts = sum(event.kind == "start" for event in data.events)
    if starts:
        saved = sum(event.kind == "checkpoint" for event in data.events)
        found.append(Number("Starts", f"{starts:,}", f"{saved:,} checkpoints"))
    return found


def _progress(data: Report) -> list[Number]:
    last = data.steps[-1]
    total = f"of {data.total_steps:,}" if data.total_steps and data.state == "Running" else ""
    found = [Number("Steps", f"{last.step:,}", total), Number("Tokens", words.amount(last.tokens))]
    seconds = sum(step.seconds or 0.0 for step in data.steps)
    if seconds:
        found.append(Number("Tokens per second", words.amount(last.tokens / seconds), _waited(data, seconds)))
        found.append(Number("Time in steps", words.duration(seconds), _elapsed(data)))
    return found


def _waited(data: Report, seconds: float) -> str:
    return f"{words.percent(sum(step.data_seconds or 0.0 for step in data.steps) / seconds)} waiting for data"


def _elapsed(data: Report) -> str:
    times = [event.time for event in data.events]
    return f"{words.duration(data.written - times[0])} since the start" if times else ""


def _shown(one: Sample) -> dict[str, Any]:
    answers = (
        ("In the data", one.reference),
        ("Before training", one.base),
        ("Before, with examples", one.prompted),
        ("After training", one.tuned),
    )
    return {
        "set": one.set,
        "prompt": _cut(one.prompt),
        "answers": [(title, _cut(text) or "(nothing)") for title, text in answers if text is not None],
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} \N{HORIZONTAL ELLIPSIS}"


def _contents(data: Report, drawn: list[Picture], tables: list[Section]) -> list[tuple[str, str]]:
    found = [("curves", "Curves")] if drawn else []
    found += [(table.id, table.title) for table in tables]
    found += [("samples", "Samples")] if data.samples else []
    found += [("audit", "Audit")] if facts(data.audit) or sample(data.audit) else []
    return [*found, ("manifest", "Manifest")]


def _yaml(content: object) -> str:
    stream = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.width = WIDEST
    writer.dump(content, stream)
    return stream.getvalue()
