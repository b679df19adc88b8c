"""The operator stays small: what is installed for it, what its process loads, and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "operator" / "finetune_operator", ROOT / "trainer" / "finetune_trainer")
HEAVY = ("torch", "ray", "deepspeed", "transformers", "peft", "numpy", "pyarrow", "boto3")
MOST_MEGABYTES = 90
MOST_INSTALLED = 125.0
"""MB (10^6 bytes); 123.8 with constraints.txt, for reasons in docs/adr/0010-own-controller-core.md."""
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


def test_what_is_installed_for_the_operator_is_small() -> None:
    """What `pip install finetune-operator[operator]` puts into an environment of its own, without byte code."""
    sizes = {found.name: size_of(found) for found in closure("finetune-operator[operator]").values()}
    sizes["finetune-operator"] = sum(path.stat().st_size for package in PACKAGES for path in sources(package))
    assert sizes["kubernetes"] > 1e6  # it is files that are counted
    assert sum(sizes.values()) / 1e6 < MOST_INSTALLED, sorted(sizes.items(), key=lambda one: -one[1])


def closure(root: str) -> dict[str, Distribution]:
    """The distributions that `root`, a requirement, brings: itself and all that it needs on this platform."""
    found: dict[str, Distribution] = {}
    todo, seen = [Requirement(root)], set()
    while todo:
        wanted = todo.pop()
        for extra in ("", *wanted.extras):
            if (wanted.name, extra) not in seen:
                seen.add((wanted.name, extra))
                found[wanted.name] = distribution(wanted.name)
                needs = map(Requirement, found[wanted.name].requires or ())
                todo += [one for one in needs if one.marker is None or one.marker.evaluate({"extra": extra})]
    return found


def size_of(found: Distribution) -> int:
    paths = [Path(str(file.locate())) for file in found.files or () if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.exists())


def sources(package: Path) -> list[Path]:
    return [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
