"""What is found out about the model and the stores before any worker starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer.errors import DataError, SpecError, StorageError
from finetune_trainer.preflight import preflight
from finetune_trainer.spec import FineTuneJob, parse_job
from s3_bucket import Bucket
from small_job import SmallJob, make_small_job


@pytest.fixture
def small_job(tmp_path: Path) -> SmallJob:
    return make_small_job(tmp_path)


def with_model(small_job: SmallJob, uri: str) -> FineTuneJob:
    return parse_job(json.dumps(small_job.manifest(model={"uri": uri})))


def uploaded(small_job: SmallJob, bucket: Bucket) -> str:
    for path in (small_job.folder / "model").iterdir():
        bucket.client.upload_file(str(path), bucket.name, f"models/tiny/{path.name}")
    return f"{bucket.uri}/models/tiny"


def test_a_job_whose_model_lies_in_s3_passes(small_job: SmallJob, bucket: Bucket) -> None:
    preflight(with_model(small_job, uploaded(small_job, bucket)))


def without_config(model: Path) -> None:
    (model / "config.json").unlink()


def without_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def without_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def of_an_adapter(model: Path) -> None:
    (model / "config.json").rename(model / "adapter_config.json")


def test_without_bitsandbytes_a_job_is_refused_with_the_remedy(
    small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    qlora = parse_job(json.dumps(small_job.manifest(method={"type": "QLoRA"})))
    preflight(qlora)
    monkeypatch.setattr("finetune_trainer.preflight.find_spec", lambda name: None)
    preflight(with_model(small_job, f"file://{small_job.folder}/model"))
    with pytest.raises(SpecError, match=r"spec\.method\.type: needs bitsandbytes.*install finetune-operator\[qlora\]"):
        preflight(qlora)


LACKING: dict[Callable[[Path], None], str] = {
    without_config: r"has no config\.json: write .* folder in the Hugging Face layout",
    without_weights: r"has only pytorch_model\.bin, which cannot be read safely: convert to safetensors",
    without_tokenizer: r"has no tokenizer: save it beside the weights \(tokenizer\.json\)",
    of_an_adapter: r"holds a LoRA adapter: write the folder of the base or a merged model",
}


@pytest.mark.parametrize("spoil", LACKING, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_a_model_that_lacks_a_part_is_refused(
    small_job: SmallJob, request: pytest.FixtureRequest, spoil: Callable[[Path], None], scheme: str
) -> None:
    model = small_job.folder / "model"
    spoil(model)
    uri = f"file://{model}" if scheme == "file" else uploaded(small_job, request.getfixturevalue("bucket"))
    with pytest.raises(DataError, match=rf"^spec\.model\.uri: {uri} {LACKING[spoil]}"):
        preflight(with_model(small_job, uri))


def test_every_field_whose_bucket_does_not_exist_is_named(small_job: SmallJob, bucket: Bucket) -> None:
    nowhere = "s3://no-such-bucket-here"
    data = {"train": [{"uri": f"{nowhere}/a.jsonl"}], "eval": [{"name": "held-out", "uri": f"{nowhere}/b.jsonl"}]}
    manifest = small_job.manifest(model={"uri": f"{nowhere}/model"}, data=data, output={"uri": f"{nowhere}/out"})
    with pytest.raises(StorageError) as failed:
        preflight(parse_job(json.dumps(manifest)))
    fields = [line.partition(": ")[0] for line in str(failed.value).splitlines()]
    assert fields == ["spec.output.uri", "spec.data.train[0].uri", "spec.data.eval[0].uri", "spec.model.uri"]
    assert str(failed.value).count("the bucket 'no-such-bucket-here' does not exist") == 4
