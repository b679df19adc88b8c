"""Where the kinds of the API live."""

from __future__ import annotations

from finetune_operator.kube.resources import JOBS, LEASES, PODS, RUNTIMES, TOKENREVIEWS


def test_paths_of_the_core_and_of_other_groups() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("team-a") == "/api/v1/namespaces/team-a/pods"
    assert JOBS.path("team-a", "bot") == "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs/bot"
    assert JOBS.path("team-a", "bot", "status").endswith("/finetunejobs/bot/status")


def test_paths_of_objects_of_the_cluster_have_no_namespace() -> None:
    assert RUNTIMES.path("team-a", "default") == "/apis/finetune.dev/v1alpha1/finetuneruntimes/default"
    assert TOKENREVIEWS.path() == "/apis/authentication.k8s.io/v1/tokenreviews"


def test_api_versions_are_those_of_manifests() -> None:
    assert (PODS.api_version, LEASES.api_version) == ("v1", "coordination.k8s.io/v1")
