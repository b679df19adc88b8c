"""Elastic attempts: how many workers their clusters begin with, and when they may have all.

KubeRay starts a driver once every pod that its cluster wants is ready, so the cluster of an elastic attempt wants the
fewest workers until its driver runs, and all of them from then on; those that find no room wait for it.
"""

from __future__ import annotations

from finetune_operator.api.attempt import AttemptStatus
from finetune_operator.policy.actions import ScaleCluster
from finetune_operator.policy.draft import Draft

DRIVER_RUNS = "RUNNING"
"""Ray's word for a job whose driver has been started."""


def let_all_in(draft: Draft, attempt: AttemptStatus) -> None:
    """Let the cluster of a live attempt want all workers, once its driver does not wait for them."""
    ray_job, workers = draft.seen.ray_job(attempt.number), draft.seen.job.manifest.spec.workers
    if ray_job is None or ray_job.over or ray_job.deleting or ray_job.ray_status != DRIVER_RUNS:
        return
    if ray_job.cluster and ray_job.wanted_workers is not None and ray_job.wanted_workers < workers.replicas:
        draft.act(ScaleCluster(ray_job, workers.replicas))
