"""Names of checkpoint folders: `<step>-<attempt>-<nonce>`, where the nonce begins with the writer's id. Pure."""

from __future__ import annotations

import re
import secrets

WRITER_DIGITS = 16
FRESH_DIGITS = 8
FOLDER = re.compile(rf"[0-9]+-[0-9]+-([0-9a-f]{{{WRITER_DIGITS}}})[0-9a-f]{{{FRESH_DIGITS}}}/")


def new_writer_id() -> str:
    """16 random hexadecimal digits: no two claims share them."""
    return secrets.token_hex(WRITER_DIGITS // 2)


def folder_name(step: int, attempt: int, writer: str) -> str:
    """A folder name for a checkpoint that nobody has used."""
    return f"{step}-{attempt}-{writer}{secrets.token_hex(FRESH_DIGITS // 2)}"


def folder_of(data: str, key: str) -> str | None:
    """The folder, slash included, of an object below `data`; None if it lies in none."""
    name, slash, rest = key.removeprefix(data).partition("/")
    return f"{data}{name}/" if key.startswith(data) and name and slash and rest else None


def writer_of(data: str, folder: str) -> str | None:
    """The id of the writer that made `folder`; None if the name is not one of ours."""
    found = FOLDER.fullmatch(folder.removeprefix(data))
    return None if found is None else found[1]
