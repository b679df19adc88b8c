"""CPU and memory amounts in Kubernetes notation, with messages for the usual slips (64GB, 512m, 4 cores)."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

CPU_PATTERN = r"^([0-9]+(\.[0-9]{1,3})?|[0-9]+m)$"
MEMORY_PATTERN = r"^[0-9]+(\.[0-9]+)?(k|[MGTP]|[KMGTP]i)?$"
MEMORY_UNITS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
# No Python process with torch starts in less; smaller values are a forgotten unit.
MEMORY_MIN = 64 * 2**20


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("quantity", "{message}", {"message": message})


def _text(value: Any, example: str) -> str:
    """Kubernetes takes `cpu: 4` as well as `cpu: "4"`, so both are read; anything else is refused."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _refuse(f"is no quantity: write for instance {example}")
    return str(value)


def _check_cpu(value: Any) -> str:
    text = _text(value, '"8" or "500m"')
    if not re.match(CPU_PATTERN, text):
        number = re.match(r"^\s*([0-9]+)", text)
        advice = f'write "{number[1]}" for {number[1]} cores' if number else 'write for instance "8"'
        raise _refuse(f'is no amount of CPU: {advice}, or "500m" for half a core')
    if cpu_cores(text) <= 0:
        raise _refuse('is no amount of CPU: write more than 0, for instance "8"')
    return text


def _memory_advice(text: str) -> str:
    slip = re.match(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgtp])(i?)b?\s*$", text, re.IGNORECASE)
    return f'write "{slip[1]}{slip[2].upper()}i"' if slip else 'write for instance "64Gi"'


def _check_memory(value: Any) -> str:
    text = _text(value, '"64Gi"')
    if not re.match(MEMORY_PATTERN, text):
        raise _refuse(f"is no amount of memory: {_memory_advice(text)} (units are Ki, Mi, Gi, Ti)")
    if memory_bytes(text) < MEMORY_MIN:
        raise _refuse(f'is {memory_bytes(text)} bytes: write an amount with its unit, for instance "64Gi"')
    return text


def cpu_cores(text: str) -> Decimal:
    """Cores of a valid CPU quantity: "500m" is 0.5."""
    return Decimal(text[:-1]) / 1000 if text.endswith("m") else Decimal(text)


def memory_bytes(text: str) -> int:
    """Bytes of a valid memory quantity, rounded down: "64Gi" is 68719476736."""
    number = text.rstrip("kKMGTPi")
    return int(Decimal(number) * MEMORY_UNITS[text[len(number) :]])


def _schema(pattern: str) -> WithJsonSchema:
    # The marker is Kubernetes' way to say that `4` and `"4"` are both fine.
    return WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "pattern": pattern,
        }
    )


Cpu = Annotated[str, BeforeValidator(_check_cpu), _schema(CPU_PATTERN)]
Memory = Annotated[str, BeforeValidator(_check_memory), _schema(MEMORY_PATTERN)]
