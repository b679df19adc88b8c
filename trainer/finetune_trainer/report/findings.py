"""What an evaluation came to (`evaluation.json`), as parts of a report; what is missing there is left out here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_trainer.report.data import HeldOut, Metric, Sample, Verdict

LOSS = "loss"
SENTENCE = re.compile(r"^(?P<title>.*?) \((?P<detail>[^()]*)\)\.(?P<more>.*)$", re.DOTALL)
"""How verdicts are put: what came out, on what, and what to beware of."""


def parts(found: Mapping[str, Any]) -> dict[str, Any]:
    """Members of a `Report`, by their names."""
    return {
        "verdict": _verdict(found.get("verdict"), found.get("note")),
        "held_out": tuple(_held_out(one) for one in found.get("sets") or ()),
        "forgetting": tuple(_forgotten(one) for one in found.get("forgetting") or ()),
        "samples": tuple(Sample.model_validate(one) for one in found.get("samples") or () if one.get("prompt")),
        "warnings": tuple(_warnings(found)),
    }


def _verdict(found: Mapping[str, Any] | None, note: str | None) -> Verdict | None:
    if found is None:
        return None
    good = found.get("outcome") == "Improved"
    text = str(found.get("text") or "")
    if (sentence := SENTENCE.match(text)) is None:
        return Verdict(good=good, title=text or ("Improved" if good else "Not improved"), text=note or "")
    detail = sentence["detail"]
    return Verdict(
        good=good, title=f"{sentence['title']}.", text=f"{detail[:1].upper()}{detail[1:]}.{sentence['more']}"
    )


def _held_out(one: Mapping[str, Any]) -> HeldOut:
    verdict: Mapping[str, Any] = one.get("verdict") or {}
    made = []
    for name, means in (one.get("means") or {}).items():
        gain = verdict.get("gain") if verdict.get("metric") == name else None
        made.append(Metric(name=name, lower_is_better=name == LOSS, **means, **(gain or {})))
    return HeldOut(name=one["name"], records=one.get("records"), metrics=tuple(made))


def _forgotten(one: Mapping[str, Any]) -> HeldOut:
    unit = one.get("unit") or ""
    metric = Metric(
        name=unit if unit.endswith(LOSS) else LOSS, base=one.get("base"), tuned=one.get("tuned"), lower_is_better=True
    )
    return HeldOut(name=one["name"], metrics=(metric,))


def _warnings(found: Mapping[str, Any]) -> Iterator[str]:
    for one in found.get("contamination") or ():
        exact, near = one.get("exact") or 0, one.get("near") or 0
        if exact or near:
            yield (
                f"Of {one.get('records', 0):,} records of the held-out set {one['name']}, {exact:,} are training "
                f"records too and {near:,} closely resemble one: its numbers are better than the model."
            )
    overfitting: Mapping[str, Any] = found.get("overfitting") or {}
    if overfitting.get("overfits"):
        yield str(overfitting.get("text") or "The model overfits: its held-out loss rose while its training loss fell.")
