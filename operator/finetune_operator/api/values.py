"""Types of the values in a status: texts with their limits, times, sums."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, PlainSerializer, WithJsonSchema

Text = Annotated[str, Field(max_length=1024)]
Long = Annotated[str, Field(max_length=32768)]
Uri = Annotated[str, Field(max_length=2048)]
Total = Annotated[int, Field(ge=0)]
"""Summed over workers and attempts, which goes beyond 32 bits."""
Decimal = Annotated[str, Field(max_length=32)]
"""A loss as text, because controllers in other languages compare floats badly."""


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[
    datetime,
    Field(strict=False),
    PlainSerializer(_rfc3339, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""Whole seconds in UTC, as Kubernetes' `metav1.Time`."""
