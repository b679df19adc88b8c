"""Weights & Biases: one run of a project, whose id is our run id, online or as files for `wandb sync`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune_trainer.spec.tracker import WandB, WandBMode
from finetune_trainer.trackers.base import About, Outcome
from finetune_trainer.trackers.mirror import Mirror

SECONDS = 30.0
UNKNOWN = re.compile(r"[/\\#?%:]")
"""Characters that the id of a run cannot have (wandb.init)."""


class WandBTracker:
    """Through the library, which has a process of its own that sends.

    Steps are a metric among others, because W&B drops what is logged for a step before the newest, as a restart does.
    """

    def __init__(self, options: WandB) -> None:
        self._options = options
        self._run: Any = None
        self._mirror: Mirror | None = None

    def start(self, about: About) -> None:
        """Begin the run, or go on in the one of this id."""
        import wandb

        options = self._options
        about.folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {"console": "off", "silent": True, "x_disable_stats": True, "init_timeout": SECONDS}
        if options.uri is not None:
            settings["base_url"] = options.uri
        self._run = wandb.init(
            project=options.project,
            entity=options.entity,
            id=UNKNOWN.sub("-", about.run_id),
            name=about.name,
            resume="allow",
            mode="offline" if options.mode is WandBMode.OFFLINE else "online",
            dir=str(about.folder),
            config=about.config,
            settings=wandb.Settings(**settings),
        )
        self._run.define_metric("*", step_metric="step")
        if options.mode is WandBMode.OFFLINE:
            self._mirror = Mirror(about, about.folder / "wandb", "wandb")

    def log(self, step: int, time: float, metrics: Mapping[str, float]) -> None:
        """Hand the metrics to the library's process."""
        self._run.log({**metrics, "step": step, "_timestamp": time})
        if self._mirror is not None:
            self._mirror.copy_sometimes()

    def finish(self, outcome: Outcome) -> None:
        """Wait until everything is sent; offline, copy the files that `wandb sync` takes to the run's folder."""
        self._run.finish(exit_code=0 if outcome is Outcome.FINISHED else 1)
        if self._mirror is not None:
            self._mirror.copy()
