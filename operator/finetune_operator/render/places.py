"""Where things are in the pods, and at which ports.

The image's file system is read-only; what is written goes to volumes that end with the pod.
"""

from __future__ import annotations

JOB_DIR = "/etc/finetune"
"""The attempt's ConfigMap: manifest, certificate authority, preStop script."""

TOKEN_DIR = "/var/run/secrets/finetune"
"""The token for progress reports, on the head only."""

WEB_IDENTITY_DIR = "/var/run/secrets/finetune-storage"
"""The token that is exchanged for credentials of the store."""

MODEL_CACHE = "/var/cache/finetune"
"""Models that outlive the pod, in workers of runtimes with `modelCache`."""

STORAGE_CA_DIR = "/etc/finetune-storage"
"""The certificate authority of the S3 store."""

HOME = "/home/finetune"
"""Home, with the caches of torch and Triton."""

SCRATCH = "/var/lib/finetune"
"""State and scratch space of the run: the model's files, logs."""

TEMPORARY = "/tmp"
"""Ray's sessions and logs, temporary files."""

SHARED_MEMORY = "/dev/shm"
"""Ray's object store, NCCL's and the data loader's buffers."""

HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "metrics": 8080}
WORKER_PORTS = {"metrics": 8080}
"""Named ports; KubeRay makes the head's into a Service, and submits the job to its `dashboard`."""

AGENT_PORT = 52365
"""Of Ray's agent, which answers the probes."""
