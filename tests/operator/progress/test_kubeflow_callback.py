"""transformers' own Kubeflow callback reports here without a change: KEP-2779."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from endpoint import Endpoint, JobPod
from finetune_operator.api.status import Progress


@pytest.fixture
def _callback_environment(
    endpoint: Endpoint, pod: JobPod, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Kubeflow Trainer sets in pods."""
    file = tmp_path / "token"
    file.write_text(token)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", endpoint.url(pod.job, "status"))
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_CA_CERT", endpoint.ca_file)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(file))


def reported(endpoint: Endpoint, pod: JobPod) -> Progress:
    report = endpoint.mailbox._boxes[pod.job].report
    assert report.progress is not None
    return report.progress


@pytest.mark.usefixtures("_callback_environment")
def test_the_callback_of_transformers_reports_to_us(endpoint: Endpoint, pod: JobPod, tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations.integration_utils import KubeflowCallback

    callback: Any = KubeflowCallback()  # type: ignore[no-untyped-call]  # as its makers left it
    callback._MIN_UPDATE_INTERVAL = 0.0  # it would send every 5 s only
    args, control = TrainingArguments(output_dir=str(tmp_path), report_to="none"), TrainerControl()
    state = TrainerState(max_steps=40, is_world_process_zero=True)
    callback.on_train_begin(args, state, control)
    assert (reported(endpoint, pod).percent, reported(endpoint, pod).total_steps) == (0, 40)

    state.global_step, state.epoch = 10, 0.5
    callback.on_log(args, state, control, logs={"loss": 2.5, "learning_rate": 1e-4, "grad_norm": 0.3, "note": "text"})
    callback.on_log(args, state, control, logs={"eval_loss": 2.25, "num_tokens": 81920.0})
    callback.on_step_end(args, state, control)
    progress = reported(endpoint, pod)
    assert (progress.step, progress.total_steps, progress.percent, progress.epoch) == (10, 40, 25, "0.5")
    assert (progress.loss, progress.eval_loss, progress.tokens) == ("2.5", "2.25", 81920)
    assert progress.estimated_completion_time is not None

    callback.on_train_end(args, state, control)
    assert reported(endpoint, pod).percent == 100
    report = endpoint.mailbox.take(pod.job)
    assert report is not None
    assert not report.finished, "the callback does not say whether anything was exported"


@pytest.mark.parametrize("sent", [b"{", b"[]", b'{"trainerStatus": []}'])
def test_what_is_no_status_is_refused(endpoint: Endpoint, pod: JobPod, token: str, sent: bytes) -> None:
    assert endpoint.post(pod.job, sent, token, "status")[0] == 400
