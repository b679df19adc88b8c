"""How a run reports to the operator: address, certificate authority, token."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.api.job import Job
from finetune_operator.render.places import JOB_DIR, TOKEN_DIR
from finetune_operator.settings import host_port


@dataclass(frozen=True)
class Operator:
    """The operator as pods see it: `service` is its host, `ca` the PEM of the authority of its certificate.

    `kuberay_namespace` is where KubeRay's operator runs (empty: beside ours), `metrics_namespace` where Prometheus does
    (empty: any may read the pods' metrics).
    """

    namespace: str
    service: str
    port: int
    ca: str
    audience_prefix: str
    kuberay_namespace: str = ""
    metrics_namespace: str = ""


def audience(operator: Operator, uid: str) -> str:
    """Audience of the token by which the pods of one job, and of no other, are known."""
    return f"{operator.audience_prefix}/{uid}"


def report_variables(job: Job, operator: Operator) -> dict[str, str]:
    """What `finetune run` reads to find us (finetune_trainer.launch.progress)."""
    return {
        "FINETUNE_PROGRESS_URL": f"https://{host_port(operator.service, operator.port)}/v1/jobs/{job.uid}/progress",
        "FINETUNE_PROGRESS_TOKEN_FILE": f"{TOKEN_DIR}/token",
        "FINETUNE_PROGRESS_CA_FILE": f"{JOB_DIR}/ca.crt",
    }
