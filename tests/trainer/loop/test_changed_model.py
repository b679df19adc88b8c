"""A run goes on with the model it began with, whatever lies at its address meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from finetune_trainer.errors import DataError, Stopped
from loop_runner import Recorder, Train
from small_job import SmallJob

ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}


def train_on(model: Path) -> None:
    """Give the model other values, as another commit of a repository has."""
    tensors = load_file(model / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, model / "model.safetensors")


def lengthen(path: Path) -> None:
    """Let every turn be rendered with one more token."""
    path.write_text(path.read_text().replace("<|im_start|>", "<|im_start|> "))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (train_on, "configuration or weights"),
        (lambda model: lengthen(model / "chat_template.jinja"), "tokenizer"),
    ],
    ids=["weights", "chat template"],
)
def test_a_model_that_changed_since_the_commit_is_refused(
    train: Train, small_job: SmallJob, change: Callable[[Path], None], what: str
) -> None:
    path = small_job.write("small", **ONE_RANK)
    with pytest.raises(Stopped):
        train(path, Recorder(stop_after=2))
    change(small_job.folder / "model")
    recorder = Recorder()
    with pytest.raises(
        DataError, match=rf"^spec\.model\.uri: the {what} of file://.* step 3: put the old files"
    ) as caught:
        train(path, recorder)
    assert "metadata.name" in str(caught.value)
    assert recorder.of("progress") == []


def test_a_model_that_was_copied_or_described_anew_is_the_same(train: Train, small_job: SmallJob) -> None:
    path = small_job.write("small", **ONE_RANK)
    with pytest.raises(Stopped):
        train(path, Recorder(stop_after=2))
    (small_job.folder / "model" / "README.md").write_text("a tiny model")
    (small_job.folder / "model").rename(small_job.folder / "elsewhere")
    (small_job.folder / "model").symlink_to(small_job.folder / "elsewhere")
    assert train(path)[0]["step"] == 12
