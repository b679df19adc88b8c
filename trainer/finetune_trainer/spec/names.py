"""Types of names: Kubernetes objects, evaluation sets, data columns. Patterns are valid in RE2 too."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_LABEL_LETTER_FIRST = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

# 36: KubeRay allows 47 for a RayJob, and each attempt appends a dash, 5 of the uid's hash, a dash and its number.
# A letter first: KubeRay wants RFC 1035 labels, since Services are named after the job.
JobName = Annotated[str, Field(min_length=1, max_length=36, pattern=DNS_LABEL_LETTER_FIRST)]
Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
# 63: Kueue reads it from a label, and label values end there.
QueueName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_SUBDOMAIN)]
SecretKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
Uid = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$")]
LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]
AnnotationValue = Annotated[str, Field(max_length=262144)]

EvalName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z0-9]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?$")]
ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
ModulePattern = Annotated[str, Field(min_length=1, max_length=256)]


def named(name: str, pattern: str) -> bool:
    """Whether a ModulePattern names a module or weight: its name, its name's ending, or a glob on its full name."""
    if any(character in pattern for character in "*?["):
        return fnmatchcase(name, pattern)
    return name == pattern or name.endswith(f".{pattern}")
