"""Certificates for servers of tests, each with an authority of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from finetune_operator.progress.certificates import renewed


def authority(folder: Path, name: str, *hosts: str) -> dict[str, Path]:
    """The PEM files of a certificate for `hosts`, 127.0.0.1 without any, and of the authority that signed it."""
    made = renewed(None, list(hosts) or ["127.0.0.1"], datetime.now(UTC))
    assert made is not None
    made["tls.crt"] += made["ca.crt"]
    found = {key: folder / f"{name}-{key}" for key in made}
    for key, path in found.items():
        path.write_bytes(made[key])
    return found
