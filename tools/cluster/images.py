"""Images without a registry: an almost empty one, and runtime specs that show a pod this machine's own programs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ssl", "/etc/alternatives", "/etc/ld.so.cache")
USERS = (
    "root:x:0:0::/root:/bin/bash\nfinetune:x:1000:1000::/home/finetune:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n"
)
FILES: Mapping[str, bytes] = {
    "etc/passwd": USERS.encode(),
    "etc/group": b"root:x:0:\nfinetune:x:1000:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": b"hosts: files dns\n",
}
FOLDERS = {"tmp": 0o1777, "etc": 0o755, "home": 0o755, "home/finetune": 0o777, "var": 0o755, "var/tmp": 0o1777}
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_image(path: Path, pause: Path, tags: Sequence[str], environment: Path) -> None:
    """Write a docker-archive of one small layer under these names; its PATH begins in a Python environment.

    Names must be full ones: containerd looks a short one up under a default registry, and fails every pod of the image.
    """
    content = _layer(pause)
    variables = [f"PATH={environment}/bin:{SEARCH}", "HOME=/home/finetune", "LANG=C.UTF-8"]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": variables, "Entrypoint": ["/pause"], "WorkingDir": "/home/finetune"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(content).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": list(tags), "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, "config.json", json.dumps(config).encode())
        _add(archive, "layer.tar", content)
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def write_specs(folder: Path, ctr: Path, paths: Sequence[Path]) -> None:
    """Write `plain.json` and `machine.json`: the second binds the system's folders and `paths`, read-only."""
    spec: dict[str, Any] = json.loads(subprocess.check_output([ctr, "oci", "spec"]))
    spec["process"].pop("rlimits", None)  # it says 1024 open files; a Ray head needs more
    (folder / "plain.json").write_text(json.dumps(spec), encoding="utf-8")
    seen = [Path(name) for name in SYSTEM]
    seen += [path for path in paths if Path("/usr") not in path.parents]
    for path in seen:
        if path.exists():
            bind = {"destination": str(path), "type": "bind", "source": str(path), "options": ["rbind", "ro"]}
            spec["mounts"].append(bind)
    (folder / "machine.json").write_text(json.dumps(spec), encoding="utf-8")


def python_paths(root: Path) -> list[Path]:
    """What a pod must see to run this Python environment, in which the repository `root` is installed as it is."""
    return [Path(sys.base_prefix), Path(sys.prefix), root / "operator", root / "trainer"]


def environment() -> Path:
    """The Python environment that pods shall use: this one."""
    return Path(sys.prefix)


def _layer(pause: Path) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name, mode in FOLDERS.items():
            _add(archive, name, None, mode)
        for name, data in FILES.items():
            _add(archive, name, data)
        _add(archive, "pause", pause.read_bytes(), 0o755)
    return layer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes | None, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.mode = mode
    if data is None:
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    else:
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
