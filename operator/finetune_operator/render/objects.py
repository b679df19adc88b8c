"""All objects of one attempt."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.job import Job
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.render.config import config_map
from finetune_operator.render.names import Object
from finetune_operator.render.network import network_policy
from finetune_operator.render.rayjob import ray_job
from finetune_operator.render.reporting import Operator
from finetune_operator.render.support import disruption_budget, service_account_object


def objects(job: Job, runtime: RuntimeSpec, number: int, operator: Operator) -> list[Object]:
    """What has to exist for attempt `number`, in the order in which it is created, the RayJob last.

    The first ones belong to the job and are the same for all its attempts; ConfigMap and RayJob are the attempt's own.
    `runtime` is one that `check_runtime` has no objection to.
    """
    account = service_account_object(job)
    made = [
        *([account] if account else []),
        network_policy(job, runtime, operator),
        disruption_budget(job),
        config_map(job, number, operator),
        ray_job(job, runtime, number, operator),
    ]
    return [_fresh(one) for one in made]


def _fresh(value: Any) -> Any:
    """The same JSON value in containers of its own: what is rendered shares parts, also with constants."""
    if isinstance(value, dict):
        return {name: _fresh(member) for name, member in value.items()}
    return [_fresh(element) for element in value] if isinstance(value, list) else value
