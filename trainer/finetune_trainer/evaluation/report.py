"""What an evaluation came to, as JSON: `evaluation.json` beside the weights. Pure.

    version        1
    verdict        of the whole run: outcome (`Improved` or `NotImproved`), metric, records, shots, tuned, base,
                   prompted, constant, against (one of these three), gain {difference, low, high}, text; null: none
    note           why there is no verdict, else null
    loss           what losses are: `nats per token of held-out loss`, or `in held-out DPO loss`
    sets[]         name; records compared; shots; means {<metric> or loss: {base, prompted, tuned,
                   constant}}; verdict, as above
    samples[]      set, record, prompt (text), reference, base, prompted, tuned: answers, null where none was made
    forgetting[]   name, base, tuned; change: positive where the loss rose; unit: `nats per token`, or for sets of other
                   objectives than SFT and CPT what their loss is, such as `DPO loss`
    overfitting    overfits, bestStep, bestLoss, lastStep, lastLoss, gap, text; null with fewer than two evaluations
    contamination[]  name, exact, near, records, trainRecords, examples

Losses are nats per token, with other objectives than SFT and CPT what `finetune_trainer.objectives` says; other means
lie between 0 and 1. `base` is the model before training, `prompted` the same with training records in its prompt,
`constant` the best answer that is the same for every record, `tuned` the exported model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from pydantic.alias_generators import to_camel

from finetune_trainer.evaluation.forgetting import GENERAL_TEXT
from finetune_trainer.evaluation.overfitting import Overfitting
from finetune_trainer.evaluation.sides import Before, SetBefore, Side
from finetune_trainer.evaluation.verdict import FEWEST, LOSS, NATS, LossKind, Scores, Verdict, verdict

VERSION = 1

Json = dict[str, Any]
MetricNames = Mapping[str, Sequence[str]]
"""The metrics of each set by its name, in the manifest's order."""


def headline(metrics: MetricNames, before: Before, after: Mapping[str, Side], loss: LossKind = NATS) -> Verdict | None:
    """The verdict of the whole run: over the records of all sets whose first metric is the same.

    That is the first metric of the first set that has any, or the loss where no set has one.
    """
    named = [names[0] for names in metrics.values() if names]
    metric = named[0] if named else LOSS
    chosen = [name for name in after if (list(metrics.get(name, ())) or [LOSS])[0] == metric and name in before.sets]
    return _verdict(metric, [(name, before.sets[name], after[name]) for name in chosen], loss)


def findings(
    metrics: MetricNames,
    before: Before,
    after: Mapping[str, Side],
    forgetting: Mapping[str, float],
    overfitting: Overfitting | None,
    samples: Sequence[Json],
    loss: LossKind = NATS,
) -> Json:
    """The whole of `evaluation.json`; `loss`: what losses are."""
    whole = headline(metrics, before, after, loss)
    return {
        "version": VERSION,
        "verdict": None if whole is None else _plain(replace(whole, text=f"{whole.text}{_caution(before)}")),
        "note": None if whole is not None else _note(before, after),
        "loss": loss.held_out,
        "sets": [_set(name, metrics.get(name, ()), before.sets.get(name), side, loss) for name, side in after.items()],
        "samples": list(samples),
        "forgetting": [
            _forgotten(name, before.forgetting[name], now, loss)
            for name, now in forgetting.items()
            if name in before.forgetting
        ],
        "overfitting": None if overfitting is None else _camel(asdict(overfitting)),
        "contamination": contamination_of(before),
    }


def _forgotten(name: str, base: float, now: float, loss: LossKind) -> Json:
    """Sets are measured by the objective's loss as all held-out data; the general text always as a text."""
    unit = (NATS if name == GENERAL_TEXT else loss).unit
    return {"name": name, "base": base, "tuned": now, "change": now - base, "unit": unit}


def contamination_of(before: Before | None) -> list[Json]:
    """`contamination` of `evaluation.json`, known before the first step."""
    return [_camel(one.model_dump(mode="json")) for one in (before.contamination if before is not None else ())]


def in_brief(found: Json) -> Json:
    """What of it goes into the run's result: no content of records, little enough for a table."""
    brief: Json = {}
    if found["verdict"] is not None:
        brief |= {"verdict": found["verdict"]["outcome"], "verdictText": found["verdict"]["text"]}
    brief["metrics"] = {one["name"]: _tuned_and_base(one["means"]) for one in found["sets"] if len(one["means"]) > 1}
    brief["forgetting"] = {one["name"]: one["change"] for one in found["forgetting"]}
    brief["overfits"] = found["overfitting"] and found["overfitting"]["overfits"]
    dirty = {one["name"]: one["exact"] + one["near"] for one in found["contamination"]}
    brief["contaminated"] = {name: count for name, count in dirty.items() if count}
    return {name: value for name, value in brief.items() if value not in (None, {})}


def as_metrics(found: Json) -> dict[str, float]:
    """Its numbers by name, for trackers: `compared/<set>/<metric>/<model>` and `forgetting/<name>`."""
    means = {
        f"compared/{one['name']}/{metric}/{model}": value
        for one in found["sets"]
        for metric, models in one["means"].items()
        for model, value in models.items()
        if value is not None
    }
    return means | {f"forgetting/{one['name']}": one["change"] for one in found["forgetting"]}


def _tuned_and_base(means: Mapping[str, Mapping[str, float | None]]) -> Json:
    return {metric: dict(values) for metric, values in means.items() if metric != LOSS}


def _set(name: str, metrics: Sequence[str], before: SetBefore | None, after: Side, loss: LossKind) -> Json:
    compared = None if before is None else _verdict((list(metrics) or [LOSS])[0], [(name, before, after)], loss)
    return {
        "name": name,
        "records": len(after.losses),
        "shots": before.shots if before is not None else 0,
        "means": {metric: _means(metric, before, after) for metric in (*metrics, LOSS)},
        "verdict": _plain(compared),
    }


def _means(metric: str, before: SetBefore | None, after: Side) -> Json:
    sides = {
        "base": None if before is None else before.base,
        "prompted": None if before is None else before.prompted,
        "tuned": after,
        **({} if before is None or before.constant is None else {"constant": before.constant}),
    }
    return {name: None if side is None else _mean(_scores(metric, side).values()) for name, side in sides.items()}


def _verdict(metric: str, sets: Sequence[tuple[str, SetBefore, Side]], loss: LossKind) -> Verdict | None:
    """Over the records of several sets; the model with examples, and one answer for all, where every set has it."""
    tuned = _joined({name: _scores(metric, after) for name, _, after in sets})
    base = _joined({name: _scores(metric, before.base) for name, before, _ in sets})
    prompted = _of_all(metric, {name: before.prompted for name, before, _ in sets})
    constant = _of_all(metric, {name: before.constant for name, before, _ in sets})
    shots = max((before.shots for _, before, _ in sets), default=0)
    return verdict(metric, tuned, base, prompted, shots, constant=constant, loss=loss)


def _of_all(metric: str, sides: Mapping[str, Side | None]) -> Scores | None:
    found = {name: _scores(metric, side) for name, side in sides.items() if side is not None}
    return _joined(found) if found and len(found) == len(sides) else None


def _joined(sets: Mapping[str, Scores]) -> Scores:
    return {f"{name}/{record}": score for name, scores in sets.items() for record, score in scores.items()}


def _scores(metric: str, side: Side) -> Scores:
    return side.losses if metric == LOSS else side.scores.get(metric, {})


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _note(before: Before, after: Mapping[str, Side]) -> str:
    if not after:
        return "no held-out records were compared"
    if not before.sets:
        return "the model before training was not evaluated on these records"
    return f"fewer than {FEWEST} held-out records were compared: too few to tell an effect from chance"


def _caution(before: Before) -> str:
    """What makes the verdict look better than it is."""
    found = [one for one in before.contamination if one.exact + one.near]
    if not found:
        return ""
    dirty, looked_at = sum(one.exact + one.near for one in found), sum(one.records for one in found)
    return f" But {dirty:,} of {looked_at:,} held-out records are training records too, or nearly."


def _plain(found: Verdict | None) -> Json | None:
    return None if found is None else asdict(found) | {"outcome": str(found.outcome)}


def _camel(names: Mapping[str, Any]) -> Json:
    """Keys as results have them: `best_step` as `bestStep`."""
    return {to_camel(name): value for name, value in names.items()}
