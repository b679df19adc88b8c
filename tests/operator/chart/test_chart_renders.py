"""What Helm makes of the chart: as committed, clean for a real API server, and only from values that make sense."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from chart_files import leaves
from chart_objects import Object, read, rendered
from cluster_fixtures import Command
from control_plane import ControlPlane
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.application import LEASE, SECRET
from finetune_operator.crd.documents import SUPPORTED_SINCE
from finetune_operator.render import check_runtime
from finetune_operator.settings import read_settings
from render_chart import CHART, EVERYTHING, OLDEST, RENDERS, golden, template
from render_example import runtime_of

pytestmark = pytest.mark.cluster  # helm is built with the cluster's programs

ROOT = Path(__file__).resolve().parents[3]
ALL_ON: Object = {"prometheus": {"serviceMonitor": {"enabled": True}, "rules": {"enabled": True}}}
H100 = YAML(typ="safe").load((ROOT / "examples" / "runtimes" / "h100.yaml").read_text())["spec"]
SEEN_BY_NO_RENDER = {"crds.check"}


def at(values: Object, path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def with_value(values: Object, path: str, value: Any) -> Object:
    name, _, rest = path.partition(".")
    inner = with_value(values.get(name, {}), rest, value) if rest else value
    return {**values, name: inner}


VALUE_SETS = {
    "default": (),
    "everything": ("--values", str(EVERYTHING)),
    "openshift": ("--set=runAsUser=null",),
    "one replica by tag": ("--set=replicas=1,image.tag=v7",),
    "a large runtime": ("--set-json", f"defaultRuntime.spec={json.dumps(H100)}"),
    "readers": ("--set=tenantRoles.runtimeReaders={system:authenticated,team-a}",),
    "no tenants, no runtime": ("--set=tenantRoles.enabled=false,defaultRuntime.enabled=false",),
}


def test_lint_has_no_complaint(helm: Command) -> None:
    for arguments in VALUE_SETS.values():
        assert "0 chart(s) failed" in helm("lint", "--strict", f"--kube-version={OLDEST}", str(CHART), *arguments)


@pytest.mark.parametrize("name", RENDERS)
def test_a_render_is_what_is_committed(helm: Command, name: str) -> None:
    made = helm(*template(*RENDERS[name]))
    assert made == golden(name).read_text(), "if it is meant: .venv/bin/python tools/render_chart.py"


@pytest.mark.usefixtures("prometheus_kinds")
@pytest.mark.parametrize("values", VALUE_SETS)
def test_the_api_server_takes_it_without_a_warning(
    helm: Command, control_plane: ControlPlane, namespace: str, values: str
) -> None:
    """Strict validation refuses unknown fields; what Pod Security `restricted` objects to would be a warning."""
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/warn=restricted")
    text = helm(*template("--include-crds", f"--namespace={namespace}", *VALUE_SETS[values]))
    command = ("apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-")
    answer = control_plane.kubectl(*command, input=text)
    assert answer.count("(server dry run)") == len(read(text))
    assert "deployment.apps/finetune-operator created" in answer


def test_the_chart_is_of_the_package_and_for_the_same_kubernetes() -> None:
    (chart,) = read((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]
    assert chart["version"].partition("-")[0] == project["version"].partition(".dev")[0]
    assert chart["kubeVersion"] == f">= {SUPPORTED_SINCE}.0-0"
    assert f"{SUPPORTED_SINCE}.0" == OLDEST


def test_an_older_kubernetes_is_refused(helm: Command) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        helm(*template("--kube-version=1.29.4"))
    assert "requires kubeVersion: >= 1.30.0-0 which is incompatible with Kubernetes v1.29.4" in failure.value.stderr


WRONG = {
    "replicas=two": "at '/replicas': got string, want integer",
    "replicas=0": "at '/replicas': minimum: got 0, want 1",
    "replica=3": "at '': additional properties 'replica' not allowed",
    "image.name=x": "at '/image': additional properties 'name' not allowed",
    "image.repository=registry.test/operator:v1": "at '/image/repository': 'registry.test/operator:v1' does not match",
    "image.digest=sha256:12": "at '/image/digest': 'sha256:12' does not match pattern",
    "operator.logLevel=info": "at '/operator/logLevel': value must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR'",
    "operator.workers=many": "at '/operator/workers': got string, want integer",
    "kuberay.namespace=Ray": "at '/kuberay/namespace': 'Ray' does not match pattern",
    "prometheus.serviceMonitor.enabled=yes": "at '/prometheus/serviceMonitor/enabled': got string, want boolean",
    "resources.limits.memory=1GB": "at '/resources/limits/memory': '1GB' does not match pattern",
    "runAsUser=0": "at '/runAsUser': minimum: got 0, want 1",
    "imagePullSecrets[0]=registry": "at '/imagePullSecrets/0': got string, want object",
    "podLabels.a=1": "at '/podLabels/a': got number, want string",
    "defaultRuntime.spec.rayVersion=2": "at '/defaultRuntime/spec/rayVersion': got number, want string",
    "defaultRuntime.spec.gpu.name=x": "at '/defaultRuntime/spec/gpu': additional properties 'name' not allowed",
    "defaultRuntime.spec.image=null": "at '/defaultRuntime/spec': missing property 'image'",
}


@pytest.mark.parametrize("setting", WRONG)
def test_a_wrong_value_is_refused_by_name(helm: Command, setting: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        helm(*template("--set", setting))
    assert WRONG[setting] in failure.value.stderr


def test_everything_names_every_value_and_each_has_an_effect(helm: Command, tmp_path: Path) -> None:
    (everything,) = read(EVERYTHING.read_text())
    values = tmp_path / "values.json"

    def render(given: Object) -> str:
        values.write_text(json.dumps(given))
        return helm(*template("--values", str(values)))

    base = render(ALL_ON)
    without_effect = []
    for leaf in leaves():
        other = at(everything, leaf.path)  # KeyError: everything.yaml lacks a new value
        other = not other if leaf.path.endswith(".enabled") and leaf.path.startswith("prometheus") else other
        if render(with_value(ALL_ON, leaf.path, other)) == base:
            without_effect.append(leaf.path)
    assert set(without_effect) == SEEN_BY_NO_RENDER


def test_the_chart_may_be_part_of_another(helm: Command) -> None:
    assert helm(*template("--set", "global.registry=registry.test")) == helm(*template())


def test_without_a_user_the_platform_chooses_one(helm: Command) -> None:
    pod = rendered(helm, "--set", "runAsUser=null")["Deployment/finetune-operator"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_the_operator_understands_what_it_is_told(helm: Command) -> None:
    objects = rendered(helm, "--values", str(EVERYTHING))
    (container,) = objects["Deployment/finetune-operator"]["spec"]["template"]["spec"]["containers"]
    environ = {"POD_NAMESPACE": "finetune-system", "POD_NAME": "one", "POD_IP": "10.0.0.7"}
    assert {one["name"] for one in container["env"]} == set(environ)
    told = read_settings(container["args"], environ)
    assert (told.namespace, told.address) == (environ["POD_NAMESPACE"], environ["POD_IP"])
    assert told.identity.startswith(environ["POD_NAME"])
    assert (told.workers, told.qps, told.burst, told.log_level) == (64, 500, 1000, "DEBUG")
    assert (told.kuberay_namespace, told.metrics_namespace, told.kubeconfig) == ("ray", "monitoring", None)
    assert told.kueue
    service = objects["Service/finetune-operator"]
    assert told.service == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"progress": told.progress_port, "metrics": told.health_port}
    # Jobs connect to the port that their network policy names, which is that of the pods.
    assert {one["targetPort"]: one["port"] for one in service["spec"]["ports"]} == ports


def test_the_role_names_what_the_operator_calls_its_own(helm: Command) -> None:
    rules = rendered(helm)["Role/finetune-operator"]["rules"]
    names = {rule["resources"][0]: rule["resourceNames"] for rule in rules if "resourceNames" in rule}
    assert names == {"leases": [LEASE], "secrets": [SECRET]}


def test_the_default_runtime_is_the_one_of_the_examples_and_suitable(helm: Command) -> None:
    spec = rendered(helm)["FineTuneRuntime/default"]["spec"]
    read_back = RuntimeSpec.model_validate_json(json.dumps(spec))
    assert read_back == runtime_of(ROOT / "examples" / "runtimes" / "default.yaml").spec
    assert check_runtime(read_back) == []
