"""Writes docs/api.md to standard output: `python -m finetune_operator.crd.reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace

from finetune_operator.api.cel.changes import CHANGEABLE, CHANGEABLE_WHILE_SUSPENDED
from finetune_operator.api.reasons import FAILURES, ConditionType, Phase, Reason
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.api.status import JobStatus
from finetune_operator.crd.columns import JOB_COLUMNS, RUNTIME_COLUMNS, Column
from finetune_operator.crd.documents import SUPPORTED_SINCE
from finetune_operator.crd.structural import MOST_CLOSED_CHOICES
from finetune_trainer.spec.base import Part
from finetune_trainer.spec.fields import Entry, walk
from finetune_trainer.spec.job import API_VERSION
from finetune_trainer.spec.reference import COMPUTED_DEFAULTS, TABLE, row

INTRODUCTION = """# What only the cluster has of the API (`{version}`)

<!-- Generated from the types by `make generate`; edit operator/finetune_operator/api and crd. -->

| Kind | Short name | Scope | Written by |
|---|---|---|---|
| `FineTuneJob` | `ftj` | namespace | the tenant; the operator writes `status` |
| `FineTuneRuntime` | `ftr` | cluster | the platform team |

The spec of a FineTuneJob is that of the manifest, [manifest.md](manifest.md), field by field: the same file runs with
`finetune run` and with `kubectl apply`. `kubectl explain ftj.spec.checkpoint` shows it too. Jobs are in the categories
`all` and `finetune`. The definitions work on Kubernetes {since} and later.

## What `kubectl apply` checks

- Types, bounds and allowed values, in the API server's words. While one of these is wrong, the API server looks no
  further.
- Everything else that `finetune validate` checks, in the same words: addresses, amounts, values that are not available
  yet, and fields that contradict each other. Where a rule needs more than one element of a list to see a mistake, the
  path is the list's, and the element stands in the text.
- Unknown fields. kubectl refuses them; another client has to ask for it (`fieldValidation=Strict`), or they are dropped
  with a warning.
- `spec.deepspeed.overrides` has the options of [manifest.md](manifest.md) as its only fields; `finetune validate` says
  what to write instead of any other.
- Whether the runtime exists, and has what the job needs, shows in the job's conditions. So does an address such as
  `file://./x`, which lies beside a manifest and nowhere on a cluster, and what the cluster refuses (Pod Security,
  quota). Each heals by itself when its cause is gone.

Three things are read differently than by `finetune run`, because kubectl reads YAML 1.1 and the API server has its own
types: a bare `On` or `Off` is true or false, so `gradientCheckpointing: "On"` needs its quotes; so does an amount of
CPU that is no whole number (`cpu: "0.5"`); and a true, a false or a fraction among the overrides stands without quotes.

Defaults that depend on nothing are written into the object when it is created, and stay as they are when a later
version has others. These depend on other fields; the operator and the trainer fill them in when they read the job:

| Field | Default |
|---|---|
{computed}
## What may change

These fields may change while the job exists: {changeable}.
And while the job is suspended: {suspended}. All others are fixed when the job is created.
"""
STATUS = """
## Status of a FineTuneJob

Words may be added to `phase`, to the types of conditions and to reasons at any time; readers ignore those they do not
know. Times are in UTC.
"""
CONDITIONS = """
### Words

| Word | Values |
|---|---|
"""
RUNTIME = """
## FineTuneRuntime
"""


def reference() -> str:
    """The whole page; the same text for the same types."""
    introduction = INTRODUCTION.format(
        version=API_VERSION,
        since=SUPPORTED_SINCE,
        computed=_computed(),
        changeable=_list(CHANGEABLE),
        suspended=_list(CHANGEABLE_WHILE_SUSPENDED),
    )
    job = ["\n## Columns of `kubectl get ftj`\n", _columns(JOB_COLUMNS), STATUS, *_rows(JobStatus, "status."), _words()]
    runtime = [RUNTIME, *_rows(RuntimeSpec, "spec."), "\nColumns of `kubectl get ftr`:\n", _columns(RUNTIME_COLUMNS)]
    return "".join([introduction, *job, *runtime])


def _computed() -> str:
    return "".join(f"| `{path}` | {default} |\n" for path, default in COMPUTED_DEFAULTS.items())


def _list(fields: Iterable[str]) -> str:
    return ", ".join(f"`spec.{field}`" for field in fields)


def _columns(columns: Iterable[Column]) -> str:
    rows = (f"| {column['name']} | `{column['jsonPath']}` | {column['description']} |\n" for column in columns)
    return "".join(["\n| Column | Field | What it shows |\n|---|---|---|\n", *rows])


def _rows(model: type[Part], prefix: str) -> list[str]:
    return [TABLE, *(row(_shown(entry)) for entry in walk(model, prefix))]


def _shown(entry: Entry) -> Entry:
    """What the operator writes has no defaults, and its words stand in a table of their own."""
    if not entry.path.startswith("status."):
        return entry
    return replace(entry, default=None, core=str if len(entry.choices) > MOST_CLOSED_CHOICES else entry.core)


def _words() -> str:
    others = [reason for reason in Reason if reason not in FAILURES]
    words: dict[str, Iterable[str]] = {
        "`phase`": list(Phase),
        "types of conditions": list(ConditionType),
        "reasons for the end of an attempt that failed": FAILURES,
        "other reasons": others,
    }
    rows = (f"| {name} | {', '.join(f'`{value}`' for value in values)} |\n" for name, values in words.items())
    return "".join([CONDITIONS, *rows])


if __name__ == "__main__":
    sys.stdout.write(reference())
