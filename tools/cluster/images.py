"""Images without a registry: an almost empty one, and runtime specs that show a pod this machine's own programs."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import sysconfig
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


PLACE = Path("/opt/finetune")
"""Where pods see this repository and its environment: their own places may be ones that pods cover, as /tmp."""

ENVIRONMENT = PLACE / ".venv"


def write_image(path: Path, pause: Path, tags: Sequence[str]) -> None:
    """Write a docker-archive of one small layer under these names; its PATH begins in the Python environment.

    Names must be full ones: containerd looks a short one up under a default registry, and fails every pod of the image.
    """
    content = _layer(pause)
    variables = [f"PATH={ENVIRONMENT}/bin:{SEARCH}", "HOME=/home/finetune", "LANG=C.UTF-8"]
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


def write_specs(folder: Path, ctr: Path, binds: Mapping[Path, Path]) -> None:
    """Write `plain.json` and `machine.json`: the second binds the system's folders and `binds`, read-only.

    `binds` are places in the pod, and what is seen there.
    """
    spec: dict[str, Any] = json.loads(subprocess.check_output([ctr, "oci", "spec"]))
    spec["process"].pop("rlimits", None)  # it says 1024 open files; a Ray head needs more
    (folder / "plain.json").write_text(json.dumps(spec), encoding="utf-8")
    system = {Path(name): Path(name) for name in SYSTEM}
    for place, source in {**system, **binds}.items():
        if source.exists() and Path("/usr") not in place.parents:
            bind = {"destination": str(place), "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
            spec["mounts"].append(bind)
    (folder / "machine.json").write_text(json.dumps(spec), encoding="utf-8")


def python_binds(root: Path, folder: Path) -> dict[Path, Path]:
    """What a pod must see to run this Python environment, in which the repository `root` is installed as it is.

    Scripts and the installation name the places of this machine: `folder` gets copies that name the pod's.
    """
    prefix, base = Path(sys.prefix), Path(sys.base_prefix)
    installed = next(Path(sysconfig.get_path("purelib")).glob("*finetune_operator.pth"))
    packages = folder / installed.name
    packages.write_text("".join(f"{PLACE / name}\n" for name in ("operator", "trainer")), encoding="utf-8")
    return {
        base: base,
        ENVIRONMENT: prefix,
        ENVIRONMENT / "bin": _scripts(prefix, folder / "scripts"),
        ENVIRONMENT / installed.relative_to(prefix): packages,
        PLACE / "operator": root / "operator",
        PLACE / "trainer": root / "trainer",
    }


def _scripts(prefix: Path, target: Path) -> Path:
    """Copies of the environment's scripts that start the pod's Python; programs that are none are left out."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in (prefix / "bin").iterdir():
        if path.is_symlink():
            (target / path.name).symlink_to(path.readlink())
        elif (text := path.read_bytes()).startswith(b"#!"):
            (target / path.name).write_bytes(text.replace(str(prefix).encode(), str(ENVIRONMENT).encode()))
            (target / path.name).chmod(0o755)
    return target


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
