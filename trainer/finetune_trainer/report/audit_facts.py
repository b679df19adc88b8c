"""A run's audit as a few facts to read: what is trained, on which data, and what one sample looks like to the model.

The whole audit is stored beside the result; keys that are missing here are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_SAMPLE = 800
"""Characters of the sample that are shown, enough for a turn or two."""


def facts(audit: Mapping[str, Any]) -> dict[str, str]:
    """Return title and text of each fact."""
    found = {
        "trained parameters": _coverage(audit.get("coverage") or {}),
        "trained weights": _kinds((audit.get("coverage") or {}).get("kinds") or {}),
        "data": "\n".join(_source(source) for source in audit.get("sources") or []),
        "trained tokens": share(audit.get("keptTokenShare")),
        "first records": _counts(audit.get("counts") or {}),
        "record lengths": _lengths(audit.get("dataReport") or {}),
        "duplicates": _duplicates((audit.get("dataReport") or {}).get("total") or {}),
        "held-out data": _contamination(audit.get("contamination") or ()),
        "packing": _isolation(audit.get("isolation")),
        "loss before training": _start_loss(audit.get("startLoss") or {}),
        "template": _template(audit.get("template") or {}),
        "look at this": "\n".join(map(str, audit.get("warnings") or ())),
        "steps": f"about {audit['estimatedSteps']:,}" if audit.get("estimatedSteps") else "",
    }
    return {title: text for title, text in found.items() if text}


def sample(audit: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Return the beginning of the sample as runs of text, each with whether it is trained."""
    left = LONGEST_SAMPLE
    runs = []
    for run in audit.get("sample") or []:
        text = str(run.get("text", ""))
        if left > 0:
            runs.append((text if len(text) <= left else text[:left] + " ...", bool(run.get("trained"))))
        left -= len(text)
    return runs


def share(value: object) -> str:
    """Write a share in [0, 1] in percent; small ones keep their digits."""
    if not isinstance(value, int | float):
        return ""
    return f"{100 * value:.2f} %" if 0 < value < 0.1 else f"{100 * value:.1f} %"


def _coverage(coverage: Mapping[str, Any]) -> str:
    if not coverage.get("parameters"):
        return ""
    trained, total = int(coverage["trainedParameters"]), int(coverage["parameters"])
    return f"{trained:,} of {total:,} ({share(trained / total)})"


def _kinds(kinds: Mapping[str, Mapping[str, int]]) -> str:
    """Name the kinds of weights that are trained, and how many of each where some are left out."""
    trained = {name: kind for name, kind in kinds.items() if kind.get("trained")}
    some = {name: kind for name, kind in trained.items() if kind["trained"] != kind.get("total")}
    counts = {name: f" ({kind['trained']} of {kind.get('total')})" for name, kind in some.items()}
    return ", ".join(f"{name}{counts.get(name, '')}" for name in trained)


def _source(source: Mapping[str, Any]) -> str:
    files = f"{source.get('files', '?')} file" + ("" if source.get("files") == 1 else "s")
    return f"{source.get('uri')}: {source.get('records', 0):,} records in {files}, {source.get('format')}"


def _counts(counts: Mapping[str, int]) -> str:
    """Say what became of the records read so far, if anything is worth saying."""
    names = {"truncated": "truncated", "split": "split", "dropped": "dropped", "bad": "bad"}
    odd = [f"{counts[key]:,} {name}" for key, name in names.items() if counts.get(key)]
    lost = f", {counts['lost_tokens']:,} tokens cut off" if counts.get("lost_tokens") else ""
    return f"{', '.join(odd)} of {counts.get('records', 0):,}{lost}" if odd else ""


def _lengths(report: Mapping[str, Any]) -> str:
    """Say how long the records read so far are, and how full the rows made of them."""
    lengths = (report.get("total") or {}).get("lengths") or {}
    if not lengths.get("max"):
        return ""
    found = ", ".join(f"{name} {lengths[name]:,}" for name in ("p50", "p90", "p99", "max"))
    return f"{found} tokens; rows {share(report.get('fill'))} full"


def _duplicates(total: Mapping[str, Any]) -> str:
    """Say how many of the records read so far are there twice, if any is."""
    exact, near = total.get("exactDuplicates") or 0, total.get("nearDuplicates") or 0
    return f"{exact:,} exact, {near:,} near of the first {total.get('read', 0):,} records" if exact or near else ""


def _contamination(found: Sequence[Mapping[str, Any]]) -> str:
    """Say how many held-out records are among the training records."""
    return "\n".join(
        f"{one['name']}: {one['exact']:,} equal a training record and {one['near']:,} resemble one, "
        f"of the {one['records']:,} looked at"
        for one in found
    )


def _start_loss(start: Mapping[str, Any]) -> str:
    """Say what the untrained model makes of the first records, and what guessing would."""
    if not start:
        return ""
    where = f"on the first {start['tokens']:,} trained tokens"
    text = f"{start['loss']:.4f} nats per token {where}; guessing costs {start['guessing']:.2f}"
    return text if start.get("base") is None else f"{text}; {start['base']:.4f} with the adapters off"


def _template(found: Mapping[str, int]) -> str:
    """Say whether what is trained ends where generation stops, and whether texts begin once."""
    if not found.get("texts"):
        return ""
    turns, ended, doubled = found["turns"], found["ended"], found["doubled"]
    ends = f"{'all ' if ended == turns else f'{ended:,} of '}{turns:,} trained parts end with a stop token"
    return (
        f"{ends}; {f'{doubled:,} of' if doubled else 'none of'} {found['texts']:,} texts begins with two start tokens"
    )


def _isolation(isolation: object) -> str:
    if not isinstance(isolation, Mapping):
        return str(isolation or "")
    worst = max(float(isolation.get("alone") or 0), float(isolation.get("other_neighbour") or 0))
    tolerance = float(isolation.get("tolerance") or 0)
    return f"documents in one row do not see each other (difference {worst:.1e}, tolerance {tolerance:.1e})"
