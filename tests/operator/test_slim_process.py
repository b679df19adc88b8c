"""The operator's process stays small: what it loads, and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "ray", "deepspeed", "transformers", "peft", "numpy", "pyarrow", "boto3")
MOST_MEGABYTES = 90
LOOK = f"""
import json, sys
import finetune_operator.main
lines = open("/proc/self/status").read().splitlines()
resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
print(json.dumps([[name for name in {HEAVY} if name in sys.modules], resident / 1024]))
"""


def test_the_operator_loads_none_of_the_trainers_libraries_and_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    heavy, megabytes = json.loads(done.stdout)
    assert heavy == []
    assert megabytes < MOST_MEGABYTES
