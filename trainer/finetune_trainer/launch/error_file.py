"""How a rank under torchrun leaves its failure behind, in the file and format that torch's elastic agent reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_trainer.launch.outcome import Failure

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"

KEY = "finetune"
"""Our record within torch's; torch ignores it."""


def write_error_file(failure: Failure, environ: Mapping[str, str]) -> None:
    """Write the failure where the elastic agent wants it, if one started this rank.

    torchrun prints `py_callstack` as the traceback and takes the record with the earliest `timestamp` (whole seconds)
    for the root cause. Format: torch/distributed/elastic/multiprocessing/errors/error_handler.py.
    """
    if file := environ.get(ERROR_FILE):
        extra = {"py_callstack": failure.traceback or failure.message, "timestamp": str(int(failure.time))}
        message = {"message": failure.message, "errorCode": failure.exit_code, "extraInfo": extra}
        Path(file).write_text(json.dumps({"message": message, KEY: failure.to_json()}), encoding="utf-8")


def read_error_data(data: Mapping[str, Any]) -> Failure | None:
    """Read the failure from an error file's content; None when the rank left none."""
    return Failure.from_json(data[KEY]) if KEY in data else None
