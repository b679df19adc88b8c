"""Records longer than maxLength are counted over the whole run, wherever it was interrupted, and never silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from finetune_trainer.errors import DataError
from loop_runner import Killed, Train, kill_at_commit
from small_job import SmallJob

ONE_RANK: dict[str, Any] = {"workers": {"replicas": 1, "gpusPerReplica": 0}}
TWO_EPOCHS: dict[str, Any] = {"maxSteps": None, "epochs": 2, "globalBatchSize": 32}


def lengthen(path: Path, lines: list[int]) -> None:
    """Give these records an answer that does not fit into 96 tokens."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for number in lines:
        records[number]["messages"][-1]["content"] *= 20
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def lost_tokens(job: SmallJob, path: Path) -> int:
    """Tokens beyond the first 96 of each record of a file."""
    tokenizer: Any = AutoTokenizer.from_pretrained(job.folder / "model")
    conversations = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in conversations]
    return sum(max(0, len(tokenizer(text, add_special_tokens=False)["input_ids"]) - 96) for text in texts)


def test_truncated_records_of_all_epochs_and_sets_are_in_result_audit_and_card(
    train: Train, small_job: SmallJob
) -> None:
    data, held_out = small_job.folder / "train.jsonl", small_job.folder / "eval.jsonl"
    lengthen(data, [3, 70, 150])
    lengthen(held_out, [5])
    path = small_job.write("small", training=TWO_EPOCHS, **ONE_RANK)
    whole, recorder = train(path)
    last = max(int(str(event["step"])) for event in recorder.of("progress"))

    lost, held_out_lost = 2 * lost_tokens(small_job, data), lost_tokens(small_job, held_out)
    assert whole["overlong"] == {"truncated": 6, "lostTokens": lost}
    assert whole["evalOverlong"] == {"held-out": {"truncated": 1, "lostTokens": held_out_lost}}
    output = small_job.folder / "output" / "small"
    audit = json.loads((output / "audit.json").read_text())
    assert (audit["counts"]["records"], audit["counts"]["truncated"]) == (320, 6)
    assert audit["dataReport"]["total"]["truncated"] == 3
    assert audit["evalCounts"]["held-out"]["truncated"] == 1
    card = (output / "README.md").read_text()
    assert f"| records longer than `maxLength`, over all epochs | 6 truncated, {lost:,} tokens lost |" in card
    assert f"| such records in held-out | 1 truncated, {held_out_lost:,} tokens lost |" in card

    killed = small_job.write("killed", training=TWO_EPOCHS, **ONE_RANK)
    with pytest.raises(Killed):
        train(killed, kill_at_commit(last))
    resumed, recorder = train(killed)
    assert recorder.of("eval") == []
    assert (resumed["overlong"], resumed["evalOverlong"]) == (whole["overlong"], whole["evalOverlong"])


def test_a_run_without_long_records_says_so(train: Train, small_job: SmallJob) -> None:
    result, _ = train(small_job.write("small", **ONE_RANK))
    assert (result["overlong"], result["evalOverlong"]) == ({}, {})
    card = (small_job.folder / "output" / "small" / "README.md").read_text()
    assert "| records longer than `maxLength`, over all epochs | none |" in card


def test_a_held_out_set_without_a_token_to_predict_is_named(train: Train, small_job: SmallJob) -> None:
    long = small_job.folder / "long.jsonl"
    long.write_text((small_job.folder / "eval.jsonl").read_text())
    lengthen(long, list(range(24)))
    sets = [{"name": name, "uri": f"file://{small_job.folder}/{name}.jsonl"} for name in ("eval", "long")]
    path = small_job.write("small", data={"eval": sets, "overlong": "Drop"}, **ONE_RANK)
    expected = (
        r"spec\.data\.eval\[1\]: the held-out set 'long' has no token to predict: of its 24 records 24 are longer"
    )
    with pytest.raises(DataError, match=expected):
        train(path)
