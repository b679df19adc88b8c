"""The part of the model card that says whether the training was worth it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_trainer.evaluation.verdict import NATS


def evaluation_part(found: Mapping[str, Any]) -> list[str]:
    """Markdown paragraphs and tables of `evaluation.json` (`evaluation.report`); no record's content among them."""
    verdict = found["verdict"]
    parts = [verdict["text"] if verdict is not None else f"There is no verdict: {found['note']}."]
    rows = [
        [one["name"], metric, *(number(means[side]) for side in ("base", "prompted", "tuned"))]
        for one in found["sets"]
        for metric, means in one["means"].items()
    ]
    if rows:
        parts.append(table(["set", "measure", "before training", "before, with examples", "this model"], rows))
        parts.append(_note(found["sets"], found["loss"]))
    parts += [_forgetting(one) for one in found["forgetting"]]
    if found["overfitting"] is not None:
        parts.append(_sentence(found["overfitting"]["text"]))
    return parts


def _note(sets: list[Mapping[str, Any]], loss: str) -> str:
    amounts = ", ".join(f"{one['records']:,} of {one['name']}" for one in sets)
    shots = max(one["shots"] for one in sets)
    shown = f" Examples: up to {shots} training records in the prompt." if shots else ""
    unit = "in nats per token of the answers" if loss == NATS.held_out else "as in the next section"
    constant = _constant(sets)
    return f"Means over the records compared ({amounts}); loss: {unit}.{shown}{constant}"


def _constant(sets: list[Mapping[str, Any]]) -> str:
    found = [(one["name"], metric, means) for one in sets for metric, means in one["means"].items()]
    same = [f"{number(m['constant'])} {metric} on {name}" for name, metric, m in found if m.get("constant") is not None]
    return f" Giving every record the same answer: {', '.join(same)}." if same else ""


def _forgetting(one: Mapping[str, Any]) -> str:
    before, after, change = one["base"], one["tuned"], one["change"]
    return f"Loss on {one['name']}: {before:.4f} before training, {after:.4f} after ({change:+.4f} {one['unit']})."


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def number(value: float | None) -> str:
    """A cell of a table: four decimals, a dash for None."""
    return "-" if value is None else f"{value:.4f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
