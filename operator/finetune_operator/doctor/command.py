"""The subcommand `finetune doctor`. Imports cheaply: the operator's libraries may not be installed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_trainer.errors import FinetuneError

if TYPE_CHECKING:
    from finetune_operator.doctor.finding import Finding

LIBRARIES = ("aiohttp", "kubernetes", "orjson")
COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}

Kubeconfig = Annotated[str | None, typer.Option(help="Kubeconfig file; the one that kubectl uses when left out.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
Runtime = Annotated[str, typer.Option(help="FineTuneRuntime to check.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="A tenant's namespace to check too.")]
Secret = Annotated[str | None, typer.Option(help="Secret with credentials for S3 in that namespace.")]
Bucket = Annotated[str | None, typer.Option(help="Store to write to from this machine: s3://bucket/prefix.")]
AsJson = Annotated[str, typer.Option("--output", "-o", help="text for people, json for programs.")]


def doctor(
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    runtime: Runtime = "default",
    namespace: Namespace = None,
    secret: Secret = None,
    bucket: Bucket = None,
    output: AsJson = "text",
) -> None:
    """Check a cluster: what is installed, what a tenant has, and the store. Exit code 1 if anything failed."""
    if output not in ("text", "json"):
        raise typer.BadParameter(f"{output!r} is no format: write text or json", param_hint="--output")
    if secret is not None and namespace is None:
        raise typer.BadParameter("is in a namespace: add --namespace", param_hint="--secret")
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise FinetuneError(f"{', '.join(missing)} not installed: pip install 'finetune-operator[operator]'")
    from finetune_operator.doctor.examine import Question, examine

    question = Question(kubeconfig or _kubeconfig(), context, runtime, namespace, secret, bucket)
    findings = asyncio.run(examine(question))
    if output == "json":
        typer.echo(json.dumps([vars(one) for one in findings], indent=2))
    else:
        _show(findings)
    if any(one.state == "failed" for one in findings):
        raise typer.Exit(1)


def _kubeconfig() -> str | None:
    """That of kubectl, or None in a pod, which has a service account."""
    if os.environ.get("KUBECONFIG"):
        return os.environ["KUBECONFIG"]
    in_pod = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    return None if in_pod else str(Path.home() / ".kube" / "config")


def _show(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("Check", "State", "Found", box=None, pad_edge=False)
    for one in findings:
        table.add_row(Text(one.check), Text(one.state, style=COLOURS[one.state]), Text(one.found))
    console.print(table)
    for one in findings:
        if one.remedy:  # in one line each: it may be a command to copy
            console.print(Text(f"\n{one.check}: {one.remedy}"), soft_wrap=True)
