"""Prints what the distribution requires with extras, one requirement per line, but not DeepSpeed, which needs torch.

python3 requirements.py operator|trainer [EXTRA...]        beside pyproject.toml
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [one for extra in sys.argv[1:] for one in project["optional-dependencies"][extra]]
wanted = [*project["dependencies"], *extras]
print("\n".join(one for one in wanted if not one.startswith("deepspeed")))
