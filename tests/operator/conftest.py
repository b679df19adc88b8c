"""What the operator's tests share: `cluster_fixtures`, whose name mypy does not take for that of tests/conftest.py."""

from cluster_fixtures import (
    control_plane,
    helm,
    kubectl,
    kuberay_controller,
    namespace,
    proxy,
    pytest_collection_finish,
    pytest_collection_modifyitems,
)

__all__ = [
    "control_plane",
    "helm",
    "kubectl",
    "kuberay_controller",
    "namespace",
    "proxy",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
]
