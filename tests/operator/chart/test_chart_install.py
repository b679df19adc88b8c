"""The chart with helm in a real cluster: first install, upgrade, removal, and what is kept through all of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from chart_release import DEFINITIONS, HOME, OPERATOR, Release
from cluster_fixtures import Command
from control_plane import ControlPlane, KubectlFailed
from looks import manifest

pytestmark = pytest.mark.cluster

EGRESS = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/egress"


def age(plane: ControlPlane) -> None:
    """Let the cluster have an older FineTuneRuntime, without `egress`."""
    patch = json.dumps([{"op": "remove", "path": EGRESS}])
    plane.kubectl("patch", "crd", DEFINITIONS[1], "--type=json", "-p", patch)


def refusal(call: Callable[[], str]) -> str:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        call()
    return str(failure.value.stderr)


def test_one_command_brings_everything(release: Release) -> None:
    release.remove_definitions()
    notes = release.install()
    assert release.get("deployment")["spec"]["replicas"] == 2
    assert release.get("finetuneruntime", "default")["spec"]["rayVersion"] == "2.60.0"
    assert release.get("crd", "finetunejobs.finetune.dev")["spec"]["group"] == "finetune.dev"
    assert f"kubectl --namespace {HOME} rollout status deployment/{OPERATOR}" in notes
    for image in ("operator:0.1.0.dev0", "trainer:0.1.0"):
        assert f"WARNING: there is no image registry.example.com/finetune/{image}: none is published yet." in notes


def test_notes_do_not_warn_of_images_that_somebody_built(release: Release) -> None:
    images = ["image.repository=registry.test/operator", "defaultRuntime.spec.image=registry.test/trainer:1"]
    assert "WARNING" not in release.install("--set", ",".join(images))


def test_an_upgrade_waits_for_the_definitions(release: Release) -> None:
    release.install()
    release.upgrade("--set", "replicas=3")
    age(release.plane)
    assert (
        "the CustomResourceDefinition finetuneruntimes.finetune.dev in the cluster is not that of this chart, and Helm "
        "does not change it: run `helm show crds <chart> | kubectl apply --server-side --force-conflicts -f -`"
    ) in refusal(lambda: release.upgrade("--set", "replicas=4"))
    assert release.get("deployment")["spec"]["replicas"] == 3
    release.upgrade("--set", "replicas=5,crds.check=false")
    release.renew_definitions()
    release.upgrade("--set", "replicas=6")
    assert release.get("deployment")["spec"]["replicas"] == 6


def test_an_upgrade_with_the_same_values_restarts_nothing(release: Release) -> None:
    release.install()
    before = release.get("deployment")["metadata"]["generation"]
    release.upgrade()
    assert release.get("deployment")["metadata"]["generation"] == before


def test_definitions_that_an_older_release_left_are_noticed(release: Release) -> None:
    release.install()
    release.uninstall()
    age(release.plane)
    assert "finetuneruntimes.finetune.dev in the cluster is not that of this chart" in refusal(release.install)
    release.renew_definitions()
    release.install()


def test_removal_keeps_jobs_and_definitions(release: Release) -> None:
    release.install()
    job = manifest()
    job["metadata"]["namespace"] = "default"
    release.plane.kubectl("create", "-f", "-", input=json.dumps(job))
    release.uninstall()
    left = release.plane.kubectl("get", "all,role,rolebinding,serviceaccount,pdb", "-o", "name", namespace=HOME)
    assert OPERATOR not in left
    for kind in ("clusterrole", "clusterrolebinding"):
        assert OPERATOR not in release.plane.kubectl("get", kind, "-o", "name")
    found = release.plane.kubectl("get", "finetunejobs", "--all-namespaces", "-o", "name")
    assert found.split() == [f"finetunejob.finetune.dev/{job['metadata']['name']}"]
    release.install()


def test_a_second_release_in_the_cluster_is_refused(release: Release, helm: Command) -> None:
    release.install()
    second = Release(release.plane, helm, "second")
    text = refusal(second.install)
    assert "exists and cannot be imported into the current release" in text
    with pytest.raises(KubectlFailed):
        second.get("secret", "sh.helm.release.v1.second.v1")
