"""Transport to the Kubernetes API server: JSON objects over aiohttp, credentials that renew themselves, typed errors.

`Client.connect` finds the server; `resources` names what the operator reads and writes. Objects are plain dictionaries.
"""

from finetune_operator.kube.client import Client, Page
from finetune_operator.kube.config import AccessError
from finetune_operator.kube.errors import (
    UNAVAILABLE,
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unreachable,
)
from finetune_operator.kube.resources import Object, Resource
from finetune_operator.kube.watch import WatchEvent

__all__ = [
    "UNAVAILABLE",
    "AccessError",
    "AlreadyExists",
    "ApiError",
    "Client",
    "Conflict",
    "Forbidden",
    "Gone",
    "Invalid",
    "NotFound",
    "Object",
    "Page",
    "Resource",
    "ServerError",
    "TooManyRequests",
    "Unauthorized",
    "Unreachable",
    "WatchEvent",
]
