"""What the chart gives to the Prometheus operator: taken by its own definitions, and asking for what there is."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from typing import Any

import pytest

from chart_objects import Object, rendered
from cluster_fixtures import Command
from control_plane import ControlPlane, KubectlFailed
from finetune_operator.api.reasons import FAILURES
from finetune_operator.core import Controller, WorkQueue, metrics
from finetune_operator.core.health import health_app

pytestmark = pytest.mark.cluster  # helm is built with the cluster's programs

MONITOR = "ServiceMonitor/finetune-operator"
RULES = "PrometheusRule/finetune-operator"


@pytest.fixture(scope="module")
def objects(helm: Command) -> dict[str, Object]:
    """The chart with both switches on."""
    switches = "prometheus.serviceMonitor.enabled=true,prometheus.rules.enabled=true"
    return rendered(helm, "--set", switches)


@pytest.mark.usefixtures("prometheus_kinds")
@pytest.mark.parametrize(("kind", "field"), [(MONITOR, "endpoints"), (RULES, "groups")])
def test_the_definitions_of_the_prometheus_operator_hold(
    control_plane: ControlPlane, objects: dict[str, Object], kind: str, field: str
) -> None:
    """They are there, and they do refuse: that the whole chart passes them is test_chart_renders.py's."""
    wrong = json.loads(json.dumps(objects[kind]))
    wrong["metadata"]["namespace"] = "default"
    command = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    control_plane.kubectl(*command, input=json.dumps(wrong))
    wrong["spec"][field] = "wrong"
    with pytest.raises(KubectlFailed, match=rf"spec\.{field}"):
        control_plane.kubectl(*command, input=json.dumps(wrong))


def test_prometheus_finds_the_metrics_of_each_pod(objects: dict[str, Object]) -> None:
    monitor, service = objects[MONITOR], objects["Service/finetune-operator"]
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    served = {resource.canonical for resource in health_app({}, {}).router.resources()}
    assert endpoint["path"] in served


def alerts(prometheus_rules: Command, objects: dict[str, Object]) -> list[Object]:
    found: list[Object] = json.loads(prometheus_rules(input=json.dumps(objects[RULES]["spec"])))
    return found


def test_prometheus_takes_the_alerts(prometheus_rules: Command, objects: dict[str, Object]) -> None:
    found = alerts(prometheus_rules, objects)
    assert [one["alert"] for one in found] == [
        "FineTuneOperatorDown",
        "FineTuneReconcileErrors",
        "FineTuneQueueSlow",
        "FineTuneQueueStuck",
        "FineTuneAttemptsFail",
    ]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("expr", "sum(finetune_leader", "could not parse expression"),
        ("annotations", {"summary": "{{ $value | humanise }}"}, 'function "humanise" not defined'),
        ("after", "5m", "field after not found"),
    ],
)
def test_an_alert_that_prometheus_would_not_load_is_noticed(
    prometheus_rules: Command, field: str, value: Any, reason: str
) -> None:
    rule = {"alert": "Wrong", "expr": "up == 0", field: value}
    with pytest.raises(subprocess.CalledProcessError) as failure:
        prometheus_rules(input=json.dumps({"groups": [{"name": "one", "rules": [rule]}]}))
    assert reason in failure.value.stderr


def test_alerts_ask_for_metrics_and_labels_that_there_are(
    prometheus_rules: Command, objects: dict[str, Object]
) -> None:
    asyncio.run(reconcile_once(KeyError("bug")))
    for reason in FAILURES:
        metrics.ATTEMPTS_ENDED.labels(reason=reason)  # as when the first attempt ends by it
    asked = [selector for alert in alerts(prometheus_rules, objects) for selector in alert["selectors"]]
    assert len(asked) >= 8
    (service,) = {selector["labels"].pop("job") for selector in asked}
    (namespace,) = {selector["labels"].pop("namespace") for selector in asked}
    assert f"Service/{service}" in objects
    assert namespace == objects[MONITOR]["metadata"]["namespace"]
    assert [selector for selector in asked if not is_exported(selector)] == []


def test_the_reasons_of_an_alert_are_those_of_attempts(prometheus_rules: Command, objects: dict[str, Object]) -> None:
    asked = [selector for alert in alerts(prometheus_rules, objects) for selector in alert["selectors"]]
    (reasons,) = {selector["labels"]["reason"] for selector in asked if "reason" in selector["labels"]}
    assert set(reasons.split("|")) < set(FAILURES)


def test_what_an_alert_says_is_known_when_it_fires(prometheus_rules: Command, objects: dict[str, Object]) -> None:
    """A label that the expression does not keep is shown as nothing."""
    (group,) = objects[RULES]["spec"]["groups"]
    for rule, alert in zip(group["rules"], alerts(prometheus_rules, objects), strict=True):
        shown = re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))
        assert set(shown) <= set(alert["by"]), alert["alert"]


async def reconcile_once(error: Exception) -> None:
    """What the operator does with a job, as its metrics see it."""
    queue: WorkQueue[str] = WorkQueue(observe=metrics.QUEUE_WAIT_SECONDS.observe)
    queue.add("job")
    called = asyncio.Event()

    async def reconcile(key: str) -> None:
        called.set()
        raise error

    working = asyncio.create_task(Controller(queue, 1, reconcile).run())
    await called.wait()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


def is_exported(selector: Object) -> bool:
    """Whether the operator's registry has a sample for it. A label's value is taken as a pattern of any of them."""
    return any(
        sample.name == selector["metric"]
        and all(re.fullmatch(value, sample.labels.get(name, "")) for name, value in selector["labels"].items())
        for metric in metrics.REGISTRY.collect()
        for sample in metric.samples
    )
