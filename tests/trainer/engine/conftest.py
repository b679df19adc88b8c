"""One tiny model for all engine tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_models


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, grouped-query attention, untied head."""
    return tiny_models.save("llama", tmp_path_factory.mktemp("tiny-llama"), tie_word_embeddings=False)
