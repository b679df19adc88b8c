"""MLflow: one run of an experiment, found again by a tag that holds our run id."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from finetune_trainer.spec.tracker import MLflow
from finetune_trainer.trackers.base import About, Outcome, flat

TAG = "finetune.run"
STATES = {Outcome.FINISHED: "FINISHED", Outcome.STOPPED: "KILLED", Outcome.FAILED: "FAILED"}
MOST_PARAMS = 100
"""Parameters in one request, and the most characters of one's value (MLflow's REST API, runs/log-batch)."""

LONGEST_PARAM = 6000
SECONDS, TRIES = "30", "2"
UNKNOWN = re.compile(r"[^\w. :-]")
"""Characters that names of metrics and parameters cannot have (mlflow.utils.validation)."""


class MLflowTracker:
    """Through MLflow's client, which sends every call at once."""

    def __init__(self, options: MLflow) -> None:
        self._options = options
        self._client: Any = None
        self._run = ""

    def start(self, about: About) -> None:
        """Find the run by its tag in the experiment, or create both."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", SECONDS)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", TRIES)  # we try again ourselves, and say why
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # who writes file:// wants it
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self._options.uri)
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{about.run_id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {TAG: about.run_id, "mlflow.source.name": "finetune-operator"}
        self._run = self._client.create_run(experiment, run_name=about.name, tags=tags).info.run_id
        params = [Param(_named(key), value[:LONGEST_PARAM]) for key, value in flat(about.config).items()]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._run, params=params[first : first + MOST_PARAMS])

    def log(self, step: int, time: float, metrics: Mapping[str, float]) -> None:
        """One request."""
        from mlflow.entities import Metric

        milliseconds = round(1000 * time)
        values = [Metric(_named(name), value, milliseconds, step) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=values)

    def finish(self, outcome: Outcome) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._run, STATES[outcome])

    def _experiment(self) -> str:
        name = self._options.experiment
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))


def _named(name: str) -> str:
    """A dot for a slash: `evalLoss/a` could not stand beside `evalLoss` where each is a file of that path."""
    return UNKNOWN.sub("_", name.replace("/", "."))
