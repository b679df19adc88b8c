"""Ranks on a real Ray whose nodes announce what is rendered: all find room, as many in each pod as should be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from finetune_trainer.spec import ranks
from rendering import render, trainer_asks, with_workers

PLACE = """
import json, sys
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False})
ray.init(address=cluster.address, logging_level="ERROR")
for case in json.load(sys.stdin):
    nodes = [cluster.add_node(**case["node"]) for _ in range(case["replicas"])]
    cluster.wait_for_nodes()
    group = placement_group([case["asked"]] * case["ranks"], strategy="PACK")
    assert group.wait(30), case
    where = list(ray.util.placement_group_table(group)["bundles_to_node_id"].values())
    more = placement_group([case["asked"]], strategy="PACK")
    print(json.dumps({"ranks": sorted(where.count(node) for node in set(where)), "more": more.wait(2)}))
    ray.util.remove_placement_group(more)
    ray.util.remove_placement_group(group)
    for node in nodes:
        cluster.remove_node(node)
"""

CASES = [(2, 3, "2"), (1, 7, "5"), (2, 0, "500m"), (2, 0, None), (1, 8, None)]


@pytest.mark.slow
def test_each_pod_gets_its_ranks_and_no_other_has_room() -> None:
    cases = []
    for replicas, gpus, cpu in CASES:
        job = with_workers(replicas, gpus, cpu)
        (group,) = render(job)["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        has = group["rayStartParams"]
        node = {"num_cpus": int(has["num-cpus"]), "num_gpus": int(has["num-gpus"])}
        asked = trainer_asks(job)
        cases.append({"node": node, "asked": asked, "replicas": group["replicas"], "ranks": ranks(job.manifest)})
    environ = {**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    run = subprocess.run(
        [sys.executable, "-c", PLACE], input=json.dumps(cases), env=environ, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    placed = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert placed == [{"ranks": [max(1, gpus)] * replicas, "more": False} for replicas, gpus, _ in CASES]
