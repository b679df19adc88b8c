"""Addresses and quantities: what one string alone can tell."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from finetune_trainer.errors import SpecError
from finetune_trainer.spec import parse_job
from finetune_trainer.spec.quantity import cpu_cores, memory_bytes
from finetune_trainer.spec.uri import is_inside

Manifest = Callable[[dict[str, Any]], str]

ACCEPTED = {
    "model.uri": [
        "s3://models",
        "s3://models/a/b",
        "file:///models/a b",
        "file://./model",
        "hf://Qwen/Qwen3-0.6B",
        "hf://Qwen/Qwen3-0.6B@main",
        "hf://org/name@refs/pr/1",
        "hf://gpt2@607a30d",
    ],
    "data.train.0.uri": [
        "s3://data/a.jsonl",
        "s3://data/**/*.jsonl.zst",
        "s3://my.data-1/part-0000[0-4].parquet",
        "file://./data/part-?.jsonl.gz",
        "file:///data/*.parquet",
        "s3://data/[!a]*/[[]x.jsonl",
        "s3://data/{a,b}/*.jsonl",
    ],
    "output.uri": ["s3://bucket", "s3://bucket/x/", "file:///out", "file://./out"],
}

REFUSED = {
    "model.uri": {
        "": "write an address",
        "llama": "has no scheme: write s3://llama or hf://llama",
        "/models/llama": "write file:///models/llama",
        "./llama": "write file:///absolute/path, or file://./path",
        "https://huggingface.co/a/b": "begins with s3:// or file:// or hf://",
        "hf://a/b/c": "write hf://<org>/<name>@<revision>",
        "hf://user:token@a/b": "give the token through HF_TOKEN",
        "s3://models/*": "has a glob character",
        "s3://m/x": "is no bucket name",
        "s3://192.168.0.1/x": "is no bucket name",
        "s3://a..b/x": "is no bucket name",
        "s3:///x": "is no bucket name",
        "s3://minio:9000/bucket": "is no bucket name",
        "s3://models/a//b": "has an empty path segment",
        "s3://models//b": "has an empty path segment: write one slash between two segments",
        "s3://models//": "has an empty path segment",
        "s3://models/../b": "has a '..' segment",
        "s3://models/x ": "a space at an end",
        "s3://models/a\nb": "has a control character",
        "s3://" + "a" * 1100: "1 to 1024 characters",
    },
    "data.train.0.uri": {
        "hf://org/dataset": "begins with s3:// or file://",
        "s3://data": "names a folder: write the files, for instance s3://data/*.jsonl",
        "s3://data/": "names a folder: write the files, for instance s3://data/*.jsonl",
        "file:///data/": "names a folder: write the files, for instance file:///data/*.jsonl",
        "s3://data/a.jsonl?region=eu-west-1": "has a query",
        "file://data/a.jsonl": "is no local path: write file:///absolute/path, or file://./path",
        "file://../a.jsonl": "has a '..' segment",
        "file://~/a.jsonl": "is no local path",
        "s3://data/a[0-9.jsonl": "has a '[' without a ']'",
    },
    "model.checkpoint.uri": {
        "hf://org/name": "begins with s3:// or file://",
        "s3://ckpt/*": "write one exact place",
    },
    "checkpoint.uri": {
        "hf://org/name": "begins with s3:// or file://",
        "gs://bucket/x": "begins with s3:// or file://",
        "file:///ckpt/*": "write one exact place",
        "S3://bucket/x": "has the scheme 'S3'",
    },
}


@pytest.mark.parametrize(("path", "uri"), [(path, uri) for path, uris in ACCEPTED.items() for uri in uris])
def test_an_address_is_accepted(manifest: Manifest, path: str, uri: str) -> None:
    parse_job(manifest({path: uri}))


@pytest.mark.parametrize(
    ("path", "uri", "advice"), [(path, uri, advice) for path, uris in REFUSED.items() for uri, advice in uris.items()]
)
def test_an_address_is_refused_with_advice(manifest: Manifest, path: str, uri: str, advice: str) -> None:
    with pytest.raises(SpecError) as refusal:
        parse_job(manifest({path: uri}))
    (problem,) = refusal.value.problems
    assert problem.path == "spec." + path.replace(".0", "[0]")
    assert advice in problem.message


@pytest.mark.parametrize("uri", ["s3://AKIA:hunter2@b/x", "https://me:hunter2@host/x", "hf://me:hunter2@org/name"])
def test_credentials_in_an_address_are_never_shown(manifest: Manifest, uri: str) -> None:
    with pytest.raises(SpecError) as refusal:
        parse_job(manifest({"model.uri": uri}))
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "kept"), [("64", "64"), (64, "64"), ("500m", "500m"), ("0.5", "0.5"), (0.5, "0.5"), ("1.125", "1.125")]
)
def test_cpu_is_read_as_kubernetes_reads_it(manifest: Manifest, given: object, kept: str) -> None:
    resources = parse_job(manifest({"workers.resources": {"cpu": given}})).spec.workers.resources
    assert resources is not None
    assert resources.cpu == kept


@pytest.mark.parametrize("given", ["512Gi", "1.5Ti", "64G", "68719476736", 68719476736])
def test_memory_is_read_as_kubernetes_reads_it(manifest: Manifest, given: object) -> None:
    resources = parse_job(manifest({"workers.resources": {"memory": given}})).spec.workers.resources
    assert resources is not None
    assert resources.memory == str(given)


@pytest.mark.parametrize(
    ("name", "given", "advice"),
    [
        ("cpu", "4Gi", 'write "4" for 4 cores'),
        ("cpu", "many", 'write for instance "8"'),
        ("cpu", "0", "write more than 0"),
        ("cpu", True, 'write for instance "8" or "500m"'),
        ("cpu", "-1", 'write for instance "8"'),
        ("memory", "64GB", 'write "64Gi"'),
        ("memory", "64 gib", 'write "64Gi"'),
        ("memory", "512m", 'write "512Mi"'),
        ("memory", "1.5TB", 'write "1.5Ti"'),
        ("memory", "lots", 'write for instance "64Gi"'),
        ("memory", 512, "is 512 bytes: write an amount with its unit"),
        ("memory", ["64Gi"], 'write for instance "64Gi"'),
    ],
)
def test_a_wrong_unit_says_what_to_write(manifest: Manifest, name: str, given: object, advice: str) -> None:
    with pytest.raises(SpecError) as refusal:
        parse_job(manifest({"workers.resources": {name: given}}))
    (problem,) = refusal.value.problems
    assert (problem.path, advice in problem.message) == (f"spec.workers.resources.{name}", True)


def test_quantities_have_their_kubernetes_value() -> None:
    assert [cpu_cores(text) for text in ("64", "500m", "0.5")] == [64, Decimal("0.5"), Decimal("0.5")]
    assert [memory_bytes(text) for text in ("64Gi", "64G", "1.5Ki", "7")] == [64 * 2**30, 64 * 10**9, 1536, 7]


def test_a_folder_holds_whole_segments_only() -> None:
    assert is_inside("s3://b/runs/a", "s3://b/runs")
    assert is_inside("s3://b/runs/", "s3://b/runs")
    assert not is_inside("s3://b/runs-2", "s3://b/runs")
