"""Prints what the distribution requires for the extras that are named (default: operator), one requirement per line."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
wanted = [*project["dependencies"]]
for extra in sys.argv[1:] or ["operator"]:
    wanted += project["optional-dependencies"][extra]
print("\n".join(wanted))
