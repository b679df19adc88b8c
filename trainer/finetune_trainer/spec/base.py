"""What all parts of the manifest share: strict types, camelCase names, no unknown fields, immutable values."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Part(BaseModel):
    """One object of the manifest.

    Values are immutable and strictly typed (the string "2" is no number). In Python, fields have the snake_case form of
    the manifest's camelCase names and may be given by either; manifests are read with the camelCase names only.
    Lists are variadic tuples, so that the JSON schema has no `prefixItems` (a CRD may not).
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


INT32_MAX = 2**31 - 1
Count = Annotated[int, Field(ge=1, le=INT32_MAX)]
CountOrZero = Annotated[int, Field(ge=0, le=INT32_MAX)]
Seconds = Annotated[int, Field(ge=1, le=INT32_MAX)]
