"""Property tests of the stream: the same examples on every machine, and no clock."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("data", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("data")
