"""Where things lie in the pods. The image is read-only; what is written goes to volumes that end with the pod."""

from __future__ import annotations

JOB_DIR = "/etc/finetune"
"""The attempt's ConfigMap: manifest, certificate authority, preStop script."""

TOKEN_DIR = "/var/run/secrets/finetune"
"""The token for progress reports, on the head only."""

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
