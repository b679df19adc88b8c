"""Names of jobs: the checks of `finetune_trainer.spec.names`, in CEL; the API server's own go first."""

from __future__ import annotations

from finetune_operator.api.cel.rule import Check, Rule, text
from finetune_trainer.spec.names import DNS_LABEL_LETTER_FIRST

MAX_NAME = 36


def name_rule() -> Rule:
    """A job's name leaves room for what the names of its Ray clusters append, and is a DNS label."""
    return Rule(
        "",
        "metadata.name",
        (
            Check(
                f"self.metadata.name.size() > {MAX_NAME}",
                f"is too long: write at most {MAX_NAME} characters (got '{{self.metadata.name}}')",
            ),
            Check(
                f"!self.metadata.name.matches({text(DNS_LABEL_LETTER_FIRST)})",
                "is no valid name: write lower-case letters, digits and dashes, a letter first and no dash last "
                "(got '{self.metadata.name}')",
            ),
        ),
        "names",
    )
