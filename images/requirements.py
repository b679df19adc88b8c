"""Prints what the distribution requires with one extra, one requirement per line, but not DeepSpeed, which needs torch.

python3 requirements.py operator|trainer        beside pyproject.toml
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
wanted = [*project["dependencies"], *project["optional-dependencies"][sys.argv[1]]]
print("\n".join(one for one in wanted if not one.startswith("deepspeed")))
