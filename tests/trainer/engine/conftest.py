"""One tiny model for all engine tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import save_tiny_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-llama"))
