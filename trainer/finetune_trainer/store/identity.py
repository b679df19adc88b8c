"""How two identities of a run differ, in words. Pure."""

from __future__ import annotations

from finetune_trainer.errors import Problem
from finetune_trainer.store.entries import Identity

ABSENT = "absent"
NEW_RUN = "choose another spec.checkpoint.uri or metadata.name to start a new run"


def differences(old: Identity, new: Identity, place: str) -> list[Problem]:
    """One problem per field in which `new` differs from the run in `place`; none if they are the same run."""
    if old.hash == new.hash:
        return []
    names = sorted(name for name in old.fields | new.fields if old.fields.get(name) != new.fields.get(name))
    if not names:
        message = f"the run in {place} was started by another trainer version, for which this is another job: {NEW_RUN}"
        return [Problem("spec", new.hash, message)]
    return [
        Problem(
            name,
            new.fields.get(name, ABSENT),
            f"the run in {place} was started with {old.fields.get(name, ABSENT)!r}: write that again, or {NEW_RUN}",
        )
        for name in names
    ]
