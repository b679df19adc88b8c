"""What runs tell the operator while they run, and what it answers: HTTPS, tokens, certificates, the newest report.

A report is a help, never the truth: one that is lost costs a figure in `kubectl get`, not a decision.
"""

from finetune_operator.progress.forward import ADDRESS, Forwarder, leader_address
from finetune_operator.progress.mailbox import Mailbox
from finetune_operator.progress.secret import Certificates
from finetune_operator.progress.server import Directory, ProgressServer
from finetune_operator.progress.tokens import Tokens

__all__ = [
    "ADDRESS",
    "Certificates",
    "Directory",
    "Forwarder",
    "Mailbox",
    "ProgressServer",
    "Tokens",
    "leader_address",
]
