"""README.md beside the weights: what the model is, what training did, and where everything comes from."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from ruamel.yaml import YAML

from finetune_trainer.export.adapter import base_reference
from finetune_trainer.export.card_evaluation import evaluation_part, number, table
from finetune_trainer.export.card_head import head_usage, metric_rows
from finetune_trainer.metrics import perplexity
from finetune_trainer.spec import OBJECTIVES, AdapterUse, FineTuneJob, OutputFormat

LOSS_PLOT = "loss.svg"


def model_card(
    job: FineTuneJob,
    result: Mapping[str, Any],
    origin: Mapping[str, Any],
    *,
    plotted: bool,
    found: Mapping[str, Any] | None = None,
) -> str:
    """Markdown with YAML front matter as the Hugging Face hub reads it; deterministic for equal arguments.

    `result` is what the run returns (`result.summarise`), `origin` its `lineage`, with `startedFrom` where it began
    with a checkpoint of another run; `plotted`: there is a `LOSS_PLOT`; `found`: what `evaluation.json` holds.
    """
    start = _start(origin)
    parts = [
        f"---\n{_yaml(_front_matter(job))}---",
        f"# {job.metadata.name}",
        _summary(job),
        *(["## Was it worth it?", *evaluation_part(found)] if found is not None else []),
        "## Held-out loss",
        _losses(job, result, start),
        *([table(["set", "metric", start, "this model"], rows)] if (rows := metric_rows(result)) else []),
        *([f"![Loss over the steps]({LOSS_PLOT})"] if plotted else []),
        "## Use",
        _usage(job),
        "## Training",
        _training(result),
        "## Lineage",
        _origin(origin),
        "Package versions: " + ", ".join(f"{name} {version}" for name, version in origin["versions"].items()) + ".",
        "## Job",
        f"```yaml\n{_yaml(origin['job'])}```",
    ]
    return "\n\n".join(parts) + "\n"


def _start(origin: Mapping[str, Any]) -> str:
    """What the loss before training is the loss of."""
    return (
        "starting checkpoint"
        if "startedFrom" in origin
        else "starting adapter"
        if "adapter" in origin
        else "base model"
    )


def _front_matter(job: FineTuneJob) -> dict[str, Any]:
    spec = job.spec
    base = {"base_model": base_reference(spec.model.uri)[0]} if spec.model.uri.startswith("hf://") else {}
    library = "peft" if spec.output.format == OutputFormat.ADAPTER else "transformers"
    tags = ["finetune-operator", spec.method.type.lower(), spec.objective.type.lower()]
    task = "text-classification" if OBJECTIVES[spec.objective.type].scores else "text-generation"
    return {**base, "library_name": library, "pipeline_tag": task, "tags": tags}


def _summary(job: FineTuneJob) -> str:
    spec = job.spec
    what = {
        OutputFormat.ADAPTER: "A LoRA adapter for",
        OutputFormat.MERGED: "A LoRA adapter merged into",
        OutputFormat.FULL: "All weights, fine-tuned from",
    }[spec.output.format]
    return f"{what} `{spec.model.uri}`, trained with objective {spec.objective.type} by finetune-operator."


def _losses(job: FineTuneJob, result: Mapping[str, Any], start: str) -> str:
    after, before = result["evalLosses"], result["baseLosses"]
    objective = job.spec.objective.type
    of = OBJECTIVES[objective].mean
    shown = _with_perplexity if of == "token" else number
    if not after:
        return "There was no held-out data."
    rows = [[name, shown(before.get(name)), shown(after[name])] for name in after]
    if len(rows) > 1:
        rows.append([f"all {of}s together", shown(result["baseLoss"]), shown(result["evalLoss"])])
    note = f"Mean loss of objective {objective} by {of}; less is better."
    if of == "token":
        note = "Nats per token, and perplexity, of the tokens that are trained in such records."
    return table(["set", start, "this model"], rows) + f"\n\n{note}"


def _with_perplexity(value: float | None) -> str:
    return number(value) + ("" if value is None else f" (perplexity {perplexity(value):.4g})")


def _usage(job: FineTuneJob) -> str:
    place = job.spec.output.uri
    folder = place.removeprefix("file://") if place.startswith("file://") else "<this folder>"
    if OBJECTIVES[job.spec.objective.type].scores:
        return head_usage(job, folder)
    kind = "AutoPeftModelForCausalLM" if job.spec.output.format == OutputFormat.ADAPTER else "AutoModelForCausalLM"
    module = "peft" if job.spec.output.format == OutputFormat.ADAPTER else "transformers"
    lines = [
        f"from {module} import {kind}",
        "from transformers import AutoTokenizer",
        "",
        f'model = {kind}.from_pretrained("{folder}", dtype="auto")',
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
    ]
    code = "```python\n" + "\n".join(lines) + "\n```"
    if job.spec.model.uri.startswith("s3://") and job.spec.output.format == OutputFormat.ADAPTER:
        return f"{code}\n\nCopy `{job.spec.model.uri}` first, and name the copy in `adapter_config.json`."
    return code


def _training(result: Mapping[str, Any]) -> str:
    rows = [
        ("optimizer steps", result["step"]),
        ("exported step", f"{result['exportedStep']} (best held-out loss: {_best(result['best'])})"),
        ("epochs", f"{result['epoch']:.3g}"),
        ("tokens", f"{result['tokens']:,}"),
        ("share of tokens trained on", _percent(result["keptTokenShare"])),
        ("share of parameters trained", _percent(result["trainableShare"])),
        ("steps skipped for a non-finite loss or gradient", result["skippedSteps"]),
        ("records that could not be used", result["quarantined"]),
        ("records longer than `maxLength`, over all epochs", _overlong(result["overlong"])),
        *((f"such records in {name}", _overlong(counts)) for name, counts in result["evalOverlong"].items()),
    ]
    names = "`audit.json` (what was trained on what), `metrics.jsonl` and `tensorboard/` (every step)"
    return table(["", ""], [[name, str(value)] for name, value in rows]) + f"\n\nMore: {names}."


def _overlong(counts: Mapping[str, int]) -> str:
    words = {"lostTokens": "tokens lost"}
    return ", ".join(f"{number:,} {words.get(name, name)}" for name, number in counts.items()) or "none"


def _best(best: Mapping[str, Any] | None) -> str:
    return "none measured" if best is None else f"step {best['step']}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"


def _origin(origin: Mapping[str, Any]) -> str:
    base, data, checkpoint = origin["base"], origin["data"], origin["checkpoint"]
    commit = f"commit `{base['revision']}`, " if base["revision"] else ""
    whole = "with the adapter merged, " if _is_merged(origin.get("adapter")) else ""
    digest = f"{whole}SHA-256 of its {base['hashed']} `{base['sha256']}`"
    rows = [
        ["base model", f"`{base['uri']}`, {commit}{base['bytes']:,} bytes, {digest}{_made_by(base)}"],
        *([["adapter", _adapter(adapter)]] if (adapter := origin.get("adapter")) else []),
        *([["started from", _checkpoint(start)]] if (start := origin.get("startedFrom")) else []),
        ["training data", f"{_uris(data['train'])}, index `{data['id']}`"],
        ["held-out data", _uris(data["eval"]) or "none"],
        [
            "checkpoint",
            f"{_checkpoint(checkpoint)}, committed {checkpoint['committedAt']}",
        ],
    ]
    return table(["", ""], rows)


def _adapter(adapter: Mapping[str, Any]) -> str:
    use = "merged into it first" if _is_merged(adapter) else "trained on"
    return f"`{adapter['uri']}`, {use}, SHA-256 `{adapter['sha256']}`{_made_by(adapter)}"


def _is_merged(adapter: Mapping[str, Any] | None) -> bool:
    return adapter is not None and adapter["use"] == AdapterUse.MERGE


def _made_by(part: Mapping[str, Any]) -> str:
    made = part.get("madeBy")
    return f", made by the run `{made['run']}`, step {made['step']}" if made else ""


def _checkpoint(one: Mapping[str, Any]) -> str:
    return f"`{one['uri']}`, step {one['step']}, log entry {one['seq']}"


def _uris(uris: Iterable[str]) -> str:
    return ", ".join(f"`{uri}`" for uri in uris)


def _yaml(content: object) -> str:
    stream = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.dump(content, stream)
    return stream.getvalue()
