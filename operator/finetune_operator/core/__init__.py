"""What every controller needs and nothing of ours: a cache of objects, a queue of keys, workers, one leader.

An `Informer` keeps a `Store` equal to the API server, its `on_change` puts keys into a `WorkQueue`, a `Controller`
works them off while the `Lease` is held. Nothing here knows what a FineTuneJob is.
"""

from finetune_operator.core.controller import Controller
from finetune_operator.core.events import EventRecorder
from finetune_operator.core.informer import Informer, strip_managed_fields
from finetune_operator.core.lease import Lease, NotLeading
from finetune_operator.core.store import Key, Store, key_of
from finetune_operator.core.workqueue import Priority, WorkQueue

__all__ = [
    "Controller",
    "EventRecorder",
    "Informer",
    "Key",
    "Lease",
    "NotLeading",
    "Priority",
    "Store",
    "WorkQueue",
    "key_of",
    "strip_managed_fields",
]
