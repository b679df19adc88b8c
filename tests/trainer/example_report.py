"""The data of a report with everything in it: a run of 2,000 steps with two interruptions."""

from __future__ import annotations

import math
import random
from typing import Any

from finetune_trainer.report.data import (
    Evaluation,
    Event,
    HeldOut,
    Metric,
    Report,
    Sample,
    Step,
    Verdict,
)

BEGIN = 1_790_000_000.0
STEPS = 2000
SCRIPT = "<script>document.title = 'owned'</script><img src=https://example.com/x.png onerror=alert(1)>"
COUNTS = {
    "records": 48210,
    "bytes": 73_400_000,
    "expected": 48210,
    "read": 8192,
    "lengths": {"p50": 212, "p90": 604, "p99": 1510, "max": 3911, "histogram": []},
    "exactDuplicates": 12,
    "nearDuplicates": 49,
    "bad": 3,
    "keptShare": 0.412,
}
AUDIT: dict[str, Any] = {
    "trainableShare": 0.0052,
    "coverage": {
        "parameters": 8_030_261_248,
        "trainedParameters": 41_943_040,
        "kinds": {"q_proj": {"trained": 32, "total": 32}, "down_proj": {"trained": 30, "total": 32}},
    },
    "isolation": {"alone": 3e-7, "other_neighbour": 2e-7, "tolerance": 1e-4},
    "keptTokenShare": 0.412,
    "counts": {"records": 8192, "truncated": 31, "bad": 3, "lost_tokens": 10423},
    "sources": [{"uri": "s3://data/support/*.jsonl.zst", "format": "Messages", "records": 48210, "files": 12}],
    "dataReport": {
        "estimated": True,
        "fill": 0.98,
        "total": COUNTS,
        "sources": [{"uri": "s3://data/support/*.jsonl.zst", "format": "Messages", "counts": COUNTS}],
    },
    "estimatedSteps": 2000,
    "sample": [
        {"text": "<|im_start|>user\nMy parcel says delivered, but it is not here.<|im_end|>\n<|im_start|>assistant\n"},
        {"text": "I am sorry. I have opened a search with the carrier.<|im_end|>", "trained": True},
    ],
}
JOB: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "support-bot", "namespace": "team-a"},
    "spec": {
        "model": {"uri": "hf://meta-llama/Llama-3.1-8B@0e9e39f249a16976918f6564b8830bc894c89659"},
        "method": {"type": "LoRA", "lora": {"rank": 16, "alpha": 32}},
        "objective": {"type": "SFT"},
        "output": {"uri": "s3://models/team-a/a-rather-long-folder-name-for-one-model/support-bot-2026-11-27"},
    },
}
METRICS = (
    Metric(name="loss", base=2.104, tuned=1.013, lower_is_better=True),
    Metric(name="exact match", base=0.02, prompted=0.31, tuned=0.64, difference=0.33, low=0.27, high=0.39),
)


def example_report(steps: int = STEPS, **changes: Any) -> Report:
    """The same report each time; `changes` replace its members."""
    evaluations = [_evaluation(step, steps) for step in range(0, steps + 1, max(1, steps // 10))]
    parts: dict[str, Any] = {
        "name": "support-bot",
        "run_id": "team-a.support-bot",
        "state": "Finished",
        "written": BEGIN + 3 * steps + 2400,
        "job": JOB,
        "versions": {"torch": "2.15.0", "deepspeed": "0.19.5", "transformers": "5.23.1"},
        "steps": tuple(_steps(steps)),
        "evaluations": tuple(evaluations),
        "events": tuple(_events(steps)),
        "total_steps": steps,
        "verdict": Verdict(
            good=True,
            title="Fine-tuning beat prompting: exact match 0.64 instead of 0.31, by 0.33 (95 % interval 0.27 to 0.39).",
            text="512 held-out records of support, against the base model with 8 examples in its prompt.",
        ),
        "held_out": (
            HeldOut(name="support", metrics=METRICS),
            HeldOut(name="returns", metrics=(METRICS[1].model_copy(update={"low": -0.02}),)),
        ),
        "forgetting": (
            HeldOut(name="general", metrics=(Metric(name="loss", base=2.31, tuned=2.36, lower_is_better=True),)),
        ),
        "samples": (
            Sample(
                set="support", prompt="Where is my order 1042?", reference="It ships today.", base=SCRIPT, tuned="It"
            ),
            Sample(set="support", prompt=SCRIPT, reference="No.", base="a" * 400, tuned="No."),
        ),
        "audit": AUDIT,
        "result": {"exportedStep": steps},
        "warnings": ("14 of 512 records of the held-out set support are in the training data too.",),
    }
    return Report(**(parts | changes))


def _steps(count: int) -> list[Step]:
    noise = random.Random(0)
    made = []
    for step in range(1, count + 1):
        late = step > count // 3
        made.append(
            Step(
                step=step,
                time=BEGIN + 90 + 3 * step + 1200 * late,
                loss=0.9 + 1.3 * math.exp(-step / (count / 6)) + noise.gauss(0, 0.12),
                learning_rate=2e-4 * min(1.0, step / (0.03 * count)) * 0.5 * (1 + math.cos(math.pi * step / count)),
                grad_norm=0.4 + abs(noise.gauss(0, 0.1)),
                tokens=131_072 * step,
                seconds=3.0 + noise.random(),
                data_seconds=0.02,
                host_bytes=21_000_000_000,
                device_bytes=61_000_000_000,
            )
        )
    return made


def _evaluation(step: int, count: int) -> Evaluation:
    loss = 1.01 + 1.09 * math.exp(-step / (count / 7))
    return Evaluation(step=step, loss=loss, sets={"support": loss, "returns": loss + 0.2})


def _events(count: int) -> list[Event]:
    third = count // 3
    starts = [(BEGIN, 1), (BEGIN + 3 * third + 1250, 1), (BEGIN + 6 * third + 1300, 2)]
    events = [Event(kind="start", time=time, attempt=attempt) for time, attempt in starts]
    for step in range(count // 10, count + 1, max(1, count // 10)):
        time = BEGIN + 100 + 3 * step + 1200 * (step > third)
        events.append(Event(kind="checkpoint", time=time, attempt=1, step=step, bytes=503_000_000))
    return sorted(events, key=lambda event: event.time)
