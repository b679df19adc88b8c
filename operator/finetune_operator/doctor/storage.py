"""Whether a store takes commits, tried from this machine by the trainer's own probe, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec

from finetune_operator.api.runtime import RuntimeStorage
from finetune_operator.doctor.finding import Finding, State
from finetune_operator.render.storage import request_variables

CHECK = "S3 store"
PROBE = "from finetune_trainer.cli.app import main; main()"
PATIENCE_SECONDS = 180.0


def probe_store(uri: str, storage: RuntimeStorage | None) -> Finding:
    """Run `finetune probe`, with the environment of this process and the address that the runtime gives to pods."""
    if find_spec("boto3") is None:
        found = "not checked: boto3 is not installed here"
        return Finding(CHECK, State.SKIPPED, found, "pip install 'finetune-operator[trainer]'")
    command = [sys.executable, "-P", "-c", PROBE, "probe", uri]
    environment = probe_environment(os.environ, storage)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return judge_probe(uri, 1, f"no answer after {PATIENCE_SECONDS:.0f} s")
    return judge_probe(uri, done.returncode, done.stderr)


def probe_environment(environ: Mapping[str, str], storage: RuntimeStorage | None) -> dict[str, str]:
    """`environ`, and of the runtime's store what that does not say itself."""
    found = dict(environ)
    if storage and storage.endpoint and not {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} & environ.keys():
        found["AWS_ENDPOINT_URL_S3"] = storage.endpoint
    if storage and storage.region:
        found.setdefault("AWS_DEFAULT_REGION", storage.region)
    for name, value in (request_variables(storage) if storage else {}).items():
        if value is not None:
            found.setdefault(name, value)
    return found


def judge_probe(uri: str, code: int, said: str) -> Finding:
    """What the probe's exit code and its last words on stderr mean."""
    if code == 0:
        return Finding(CHECK, State.OK, f"{uri} takes conditional writes; tried from this machine, not from a pod")
    reason = said.strip() or f"exit code {code}"
    remedy = "correct it, or run the command where the store can be reached, with credentials in AWS_* variables"
    return Finding(CHECK, State.FAILED, f"tried from this machine, not from a pod: {reason}", remedy)
