"""Jobs, runtimes and what is rendered of them, for tests of the renderer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_operator.api.job import Job
from finetune_operator.api.runtime import RuntimeSpec
from finetune_operator.render import objects
from finetune_trainer.launch.folders import RunFolder
from finetune_trainer.launch.launcher import Plan
from finetune_trainer.launch.machine import Machine
from looks import make_job
from render_example import OPERATOR, job_of

EXAMPLES = Path(__file__).parents[2] / "examples"
Object = dict[str, Any]


def example(name: str) -> Job:
    """A job of examples/ as the API server would hold it."""
    return job_of(EXAMPLES / f"{name}.yaml")


def runtime(**spec: Any) -> RuntimeSpec:
    """A runtime by the names of its manifest."""
    return RuntimeSpec.model_validate_json(json.dumps({"image": "registry/trainer:1", **spec}))


def render(job: Job | None = None, on: RuntimeSpec | None = None, number: int = 1) -> dict[str, Object]:
    """The rendered objects by kind."""
    made = objects(job or make_job(), on or runtime(), number, OPERATOR)
    assert len({one["kind"] for one in made}) == len(made)
    return {one["kind"]: one for one in made}


def templates(rendered: dict[str, Object]) -> dict[str, Object]:
    """The pod templates of a rendered RayJob by role."""
    cluster = rendered["RayJob"]["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"]["template"], "worker": cluster["workerGroupSpecs"][0]["template"]}


def containers(rendered: dict[str, Object]) -> dict[str, Object]:
    """The Ray containers by role."""
    return {role: template["spec"]["containers"][0] for role, template in templates(rendered).items()}


def values(container: Object) -> dict[str, Any]:
    """The environment variables: a text, or where the value comes from."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def with_workers(replicas: int, gpus: int, cpu: str | None = None) -> Job:
    """A job with such workers."""
    workers: Object = {"replicas": replicas, "gpusPerReplica": gpus}
    if cpu is not None:
        workers["resources"] = {"cpu": cpu, "memory": "64Gi"}
    training = {"maxSteps": 100, "globalBatchSize": 4 * replicas * max(1, gpus), "learningRate": 1.0e-3}
    return make_job(workers=workers, training=training)


def renamed(job: Job, **changes: Any) -> Job:
    """The job with other members."""
    return replace(job, **changes)


def trainer_asks(job: Job) -> dict[str, float]:
    """What the trainer asks Ray for, for each rank of the job."""
    from finetune_trainer.launch.ray_train import resources_per_worker

    nowhere = Path("/nowhere")
    return resources_per_worker(Plan(job.manifest, Machine(2, 0), RunFolder(nowhere), nowhere), local=False)
