"""Keeps the pods of an attempt off the nodes on which earlier ones ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_operator.render.names import Object

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def keep_off(pod: Object, nodes: Sequence[str]) -> Object:
    """The PodSpec with a node affinity that leaves these nodes out, in addition to what it asks of nodes already."""
    if not nodes:
        return pod
    affinity: dict[str, Any] = pod.get("affinity") or {}
    node_affinity: dict[str, Any] = affinity.get("nodeAffinity") or {}
    terms = (node_affinity.get(REQUIRED) or {}).get("nodeSelectorTerms") or [{"matchFields": []}]
    required = {"nodeSelectorTerms": [_without(term, nodes) for term in terms]}
    return {**pod, "affinity": {**affinity, "nodeAffinity": {**node_affinity, REQUIRED: required}}}


def _without(term: Object, nodes: Sequence[str]) -> Object:
    """One of the terms of which a node has to meet any; an empty one is met by none, and stays so."""
    if not term:
        return term
    names = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]  # one value is allowed
    return {**term, "matchFields": [*(term.get("matchFields") or []), *names]}
