"""A real run and a real tracker."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.errors import Stopped
from finetune_trainer.trackers import feed
from loop_runner import Recorder, Train
from small_job import make_small_job


def test_a_run_that_was_stopped_goes_on_in_its_trackers(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(feed, "SHORT_WAIT", 60.0)
    from mlflow.tracking import MlflowClient

    uri = f"file://{tmp_path}/mlruns"
    spec = {"workers": {"replicas": 1}, "training": {"maxSteps": 4}, "trackers": {"mlflow": {"uri": uri}}}
    manifest = make_small_job(tmp_path).write(**spec)  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        train(manifest, Recorder(stop_after=2))
    result, recorder = train(manifest)
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("finetune").experiment_id])
    steps = [one.step for one in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(set(steps)) == [1, 2, 3, 4]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["evalLoss"] == pytest.approx(result["evalLoss"])
    assert run.data.params["spec.model.uri"].endswith("/model")
    assert [event for event in recorder.of("phase") if event["name"] == "tracking"] == []
