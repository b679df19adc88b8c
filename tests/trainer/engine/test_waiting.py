"""Ranks that wait for each other: an error of one ends all, and long work is no hang."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from faulty_http import drip_answer
from faulty_proxy import faulty_proxy
from finetune_trainer.context import RunContext, SilentReporter, StopSignal
from finetune_trainer.initial_adapter import DECOMPOSING, TAKING_OUT
from finetune_trainer.spec import parse_job
from ranks import run_ranks
from s3_bucket import Bucket
from small_job import make_small_job

RANKS = "tests/trainer/engine/ranks_waiting.py"


def test_an_error_of_one_rank_whatever_it_is_ends_the_others_with_its_message() -> None:
    innocent, failing = run_ranks(2, f"{RANKS}:share_errors", {})
    assert failing["raised"] == ["DataError: no record", "TypeError: no number", "MemoryError: "]
    assert innocent["raised"] == [
        "PeerFailed: rank 1 failed: no record",
        "PeerFailed: rank 1 failed: TypeError: no number",
        "PeerFailed: rank 1 failed: MemoryError: ",
    ]


def test_work_of_another_rank_beyond_the_deadline_is_progress_and_no_hang() -> None:
    main, other = run_ranks(2, f"{RANKS}:work_long", {"deadline": 2.0})
    assert main["results"] == other["results"] == [0, 1]
    assert not main["hung"]
    assert main["reported"] >= 4
    assert other["reported"] == 0


def test_long_work_ends_on_every_rank_when_one_is_asked_to_stop() -> None:
    for rank in run_ranks(2, f"{RANKS}:end_long_work", {"how": "stops"}):
        assert rank["raised"].startswith("Stopped: stopped before training, as asked (SIGTERM received)")
        assert rank["ended"]


def test_long_work_is_not_waited_for_when_another_rank_has_failed() -> None:
    working, failing = run_ranks(2, f"{RANKS}:end_long_work", {"how": "fails"})
    assert failing["raised"] == "TypeError: no number"
    assert working["raised"] == "PeerFailed: rank 1 failed: TypeError: no number"


def test_a_file_that_is_read_for_longer_than_the_deadline_is_indexed(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = random.Random(1)
    lines = [json.dumps({"text": noise.randbytes(5_000).hex()}) for _ in range(500)]
    bucket.client.put_object(Bucket=bucket.name, Key="slow.jsonl", Body="\n".join(lines).encode())
    data = {"train": [{"uri": f"{bucket.uri}/slow.jsonl"}], "eval": None}
    job = make_small_job(tmp_path).write(data=data, evaluation=None, objective={"type": "CPT"})
    with faulty_proxy(bucket.server.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.inject("GET", drip_answer(pieces=1), part="slow.jsonl")  # its first bytes, which tell the container
        proxy.inject("GET", drip_answer(pieces=50, pause=0.2), part="slow.jsonl")
        main, other = run_ranks(2, f"{RANKS}:index", {"job": str(job), "deadline": 5.0})
    assert main["records"] == other["records"] == 500
    assert not main["hung"]
    assert len(set(main["told"])) >= 4
    assert main["told"] == sorted(main["told"])


def test_first_values_of_adapters_may_take_longer_than_the_deadline(tmp_path: Path) -> None:
    large: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 16}
    job = make_small_job(tmp_path, records=8, **large).write(method={"lora": {"initialization": "PiSSA"}})
    main, other = run_ranks(2, f"{RANKS}:take_out", {"job": str(job), "deadline": 4.0})
    assert main["seconds"] > 4.0
    assert main["taken"] == other["taken"] == 16 * 7
    assert main["told"] == sorted(main["told"], key=[DECOMPOSING, TAKING_OUT].index)
    assert DECOMPOSING in main["told"]


def test_fetching_a_model_tells_how_many_of_its_bytes_are_here(tmp_path: Path, bucket: Bucket) -> None:
    from finetune_trainer.build import fetch

    small = make_small_job(tmp_path)
    for file in (small.folder / "model").iterdir():
        bucket.client.upload_file(str(file), bucket.name, f"model/{file.name}")
    job = parse_job(json.dumps(small.manifest(model={"uri": f"{bucket.uri}/model"})))
    context = RunContext(0, 1, 0, 1, "cpu", None, SilentReporter(), StopSignal(), tmp_path / "work" / "run")
    told: list[Mapping[str, object]] = []
    folder = fetch(job, context, told.append)
    assert (folder / "model.safetensors").exists()
    assert (told[-1]["kind"], told[-1]["detail"]) == ("phase", f"{bucket.uri}/model")
    assert told[-1]["done"] == told[-1]["total"]
