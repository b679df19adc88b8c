"""Builds the DeepSpeed wheel with its compiled ops in it, once per machine (docs/adr/0003-deepspeed-ops-at-set-up.md).

Runs inside the environment that will use the wheel, because the ops are compiled against its torch; prints the path.

    python tools/deepspeed_wheel.py --accelerator cpu --version 0.19.8
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from cache import cache_root, locked

OPS = {"cpu": ("SHM_COMM", "CPU_ADAM", "FUSED_ADAM"), "cuda": ("CPU_ADAM", "FUSED_ADAM")}
GIB_PER_COMPILER = 2.0  # cc1plus on torch's headers peaks at 1.5 to 1.9 GiB


def ops_to_build(accelerator: str, has_nvcc: bool) -> tuple[str, ...]:
    """Return the DS_BUILD_* names to compile: none for CUDA without nvcc, since every op there includes CUDA code."""
    return () if accelerator == "cuda" and not has_nvcc else OPS[accelerator]


def parallel_compilers(cores: int, memory_gib: float) -> int:
    """Return how many compilers fit into this machine, at least one."""
    return max(1, min(cores, int(memory_gib / GIB_PER_COMPILER)))


def wheel_key(facts: dict[str, object]) -> str:
    """Return 12 hex digits that change when anything the compiled ops depend on changes."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def build_facts(version: str, accelerator: str, ops: tuple[str, ...]) -> dict[str, object]:
    """Return what the wheel is compiled for; the CPU is part of it because the ops use `-march=native`."""
    return {
        "deepspeed": version,
        "torch": metadata.version("torch"),
        "python": sysconfig.get_config_var("SOABI"),
        "accelerator": accelerator,
        "ops": list(ops),
        "cpu": cpu_features(),
    }


def cpu_features() -> str:
    """Return the instruction sets of this CPU as Linux names them, or the architecture where it does not."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = (line.partition(":")[2].strip() for line in lines if line.startswith(("flags", "Features")))
    return next(flags, platform.machine())


def build_environment(accelerator: str, ops: tuple[str, ...], folder: Path) -> dict[str, str]:
    """Return the variables of the build; `folder` gets a setuptools configuration that compiles ops side by side."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    compilers = parallel_compilers(os.cpu_count() or 1, memory)
    environment = os.environ | {"DS_ACCELERATOR": accelerator, "MAX_JOBS": str(compilers)}
    environment |= {f"DS_BUILD_{op}": "1" for op in ops}
    if accelerator == "cuda":
        return environment | {"DS_ENABLE_NINJA": "1"}
    configuration = folder / "setuptools.cfg"
    configuration.write_text(f"[build_ext]\nparallel = {compilers}\n")
    return environment | {"DIST_EXTRA_CONFIG": str(configuration)}


def wheel(version: str, accelerator: str) -> Path:
    """Return the wheel for this environment and accelerator, building it first if this machine has not done so.

    Raises CalledProcessError when the compiler fails; its output goes to stderr.
    """
    nvcc = shutil.which("nvcc") or Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvcc")
    ops = ops_to_build(accelerator, has_nvcc=Path(nvcc).exists())
    if not ops:
        print("no CUDA compiler (nvcc) here: DeepSpeed gets no compiled ops, CPU offload cannot work", file=sys.stderr)
    facts = build_facts(version, accelerator, ops)
    target = cache_root() / "deepspeed" / wheel_key(facts)
    with locked(target):
        if not target.exists():
            _build(version, build_environment(accelerator, ops, target.parent), target)
            (target / "built-for.json").write_text(json.dumps(facts, indent=1))
    return next(target.glob("*.whl"))


def _build(version: str, environment: dict[str, str], target: Path) -> None:
    half = target.with_name(f"{target.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    # The ops need this environment's torch (no isolation); a cached wheel may have been built without ops (no cache).
    options = ["--use-pep517", "--no-build-isolation", "--no-deps", "--no-cache-dir", "--wheel-dir", str(half)]
    command = [sys.executable, "-m", "pip", "wheel", *options, f"deepspeed=={version}"]
    subprocess.run(command, env=environment, stdout=sys.stderr, check=True)
    half.rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", choices=sorted(OPS), required=True)
    parser.add_argument("--version", required=True)
    arguments = parser.parse_args()
    print(wheel(arguments.version, arguments.accelerator))


if __name__ == "__main__":
    main()
