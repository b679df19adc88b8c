"""A store is reached as botocore finds it: by path or by the bucket's own host, over IPv6, TLS and proxies."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from faulty_proxy import faulty_proxy
from finetune_trainer.errors import StorageError
from finetune_trainer.store import ObjectExists, open_store
from finetune_trainer.store.checksums import crc64nvme
from s3_bucket import Bucket
from s3_server import S3Server, create_bucket, free_port, serving
from tls_files import authority

BUCKET = "some-bucket"
DOMAIN = "s3.test"
VIRTUAL = "[default]\ns3 =\n    addressing_style = virtual\n"


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    """Make the bucket, and let this process find the server, with these settings besides."""
    create_bucket(server, BUCKET)
    for name, value in (server.environment() | settings).items():
        monkeypatch.setenv(name, value)


def exercise(uri: str) -> None:
    """Everything that a checkpoint needs of a store, with a body that is larger than any buffer on its way."""
    store = open_store(uri)
    data = np.random.default_rng(0).integers(0, 256, 5 * 2**20 + 3, dtype=np.uint8)
    info = store.create("a b/ü", data.data)
    with pytest.raises(ObjectExists):
        store.create("a b/ü", data.data[1:])
    assert list(store.list()) == [info]
    held = np.empty_like(data)
    assert store.read_into("a b/ü", held.data) == (data.nbytes, crc64nvme(data.data))
    assert np.array_equal(held, data)
    assert store.get("a b/ü", 2**20 + 1, 7) == data[2**20 + 1 : 2**20 + 8].tobytes()
    store.delete(["a b/ü"])
    assert list(store.list()) == []


def virtual_hosts(tmp_path: Path) -> dict[str, str]:
    """The setting by which buckets are subdomains, which exist for proxies alone."""
    (tmp_path / "aws").write_text(VIRTUAL)
    return {"AWS_CONFIG_FILE": str(tmp_path / "aws")}


def test_an_ipv6_address_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here: addresses like http://[::1]:9000 are NOT tested")
    with serving(tmp_path / "data", host="::1") as server:
        use(server, monkeypatch)
        assert server.endpoint.startswith("http://[::1]:")
        exercise(f"s3://{BUCKET}/runs")


def test_a_buckets_own_host_is_asked_by_way_of_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "data", domain=DOMAIN) as server, faulty_proxy(server.port) as proxy:
        use(server, monkeypatch, **virtual_hosts(tmp_path), AWS_ENDPOINT_URL=f"http://{DOMAIN}")
        monkeypatch.setenv("HTTP_PROXY", proxy.endpoint.replace("//", "//user:word@"))
        exercise(f"s3://{BUCKET}/runs")
        assert all(path.startswith(f"http://{BUCKET}.{DOMAIN}/") for _, path, _ in proxy.seen)
        assert {headers["Proxy-Authorization"] for _, _, headers in proxy.seen} == {"Basic dXNlcjp3b3Jk"}


def test_tls_goes_through_the_proxys_tunnel_to_the_buckets_own_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = authority(tmp_path, "store", "127.0.0.1", f"*.{DOMAIN}")
    certificate = (files["tls.crt"], files["tls.key"])
    with serving(tmp_path / "data", certificate, domain=DOMAIN) as server, faulty_proxy(server.port) as proxy:
        use(server, monkeypatch, **virtual_hosts(tmp_path), AWS_ENDPOINT_URL=f"https://{DOMAIN}")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(files["ca.crt"]))
        monkeypatch.setenv("HTTPS_PROXY", proxy.endpoint)
        exercise(f"s3://{BUCKET}/runs")
        assert {(method, path) for method, path, _ in proxy.seen} == {("CONNECT", f"{BUCKET}.{DOMAIN}:443")}
        # An object that exists is found by a look after each body that is refused before its end, not after ten bodies.
        assert len(proxy.seen) < 6


def test_no_proxy_names_what_is_near(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:hunter2@127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    exercise(f"{bucket.uri}/runs")
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="the proxy does not answer: check HTTPS_PROXY and NO_PROXY") as failed:
        open_store(bucket.uri).head("a")
    assert "hunter2" not in str(failed.value)
