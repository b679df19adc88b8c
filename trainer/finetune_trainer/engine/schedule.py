"""Learning-rate schedules as pure functions of how much of the run is done.

Progress is a share in [0, 1]: of the steps with `maxSteps`, of the records consumed without. So a schedule means the
same whatever the packing makes of the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from finetune_trainer.spec import ScheduleType

WSD_DECAY_SHARE = 0.1  # share of the run spent decaying; MiniCPM, arXiv:2404.06395, section 4.2


def learning_rate_factor(kind: ScheduleType, warmup: float, before: float, after: float) -> float:
    """Factor in [0, 1] on the peak rate for the step that takes the run from share `before` to share `after`.

    During the linear warm-up (a share `warmup` of the run) the end of the step counts, so that the first step is not
    lost to a rate of zero; afterwards its beginning counts, so that the last step is not.
    """
    if before < warmup:
        return min(1.0, after / warmup)
    return _DECAYS[kind](min(1.0, (before - warmup) / (1.0 - warmup)))


def _constant(_: float) -> float:
    return 1.0


def _linear(share: float) -> float:
    return 1.0 - share


def _cosine(share: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * share))  # SGDR without restarts, arXiv:1608.03983, equation 5


def _warmup_stable_decay(share: float) -> float:
    return min(1.0, (1.0 - share) / WSD_DECAY_SHARE)


_DECAYS: Mapping[ScheduleType, Callable[[float], float]] = {
    ScheduleType.CONSTANT: _constant,
    ScheduleType.LINEAR: _linear,
    ScheduleType.COSINE: _cosine,
    ScheduleType.WSD: _warmup_stable_decay,
}
