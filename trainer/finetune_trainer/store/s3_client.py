"""The S3 client: signing, retries, time limits, checksums and encryption as a checkpoint store needs them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import SSLError
from botocore.loaders import Loader, create_loader

from finetune_trainer.store.s3_body import send_uncopied
from finetune_trainer.store.s3_credentials import keep_renewed
from finetune_trainer.store.s3_retries import widen_retries

if TYPE_CHECKING:
    from botocore.model import OperationModel
    from mypy_boto3_s3 import S3Client

# Ten attempts wait up to 25 s after connection errors and up to 110 s under throttling (botocore's "standard" mode,
# full jitter): long enough for a restart of the store or a burst of SlowDown, short enough to fail within minutes.
MAX_ATTEMPTS = 10
CONNECT_SECONDS = 5.0
# A server may take this long before the first byte of an answer to a 5 GiB PUT.
READ_SECONDS = 120.0
CONNECTIONS = 32
STS_READ_SECONDS = 20.0
# OpenSSL's and Python's words for what no retry can change; the last two are of a bundle that cannot be read.
NO_TLS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "NO_CERTIFICATE_OR_CRL_FOUND", "[Errno 2]")

# Environment variable -> the member of S3's requests that it sets, wherever a request has it.
ENCRYPTION, KMS_KEY, OWNER = (
    "FINETUNE_S3_SERVER_SIDE_ENCRYPTION",
    "FINETUNE_S3_KMS_KEY_ID",
    "FINETUNE_S3_EXPECTED_BUCKET_OWNER",
)
MEMBERS = {ENCRYPTION: "ServerSideEncryption", KMS_KEY: "SSEKMSKeyId", OWNER: "ExpectedBucketOwner"}


def make_client() -> S3Client:
    """A new client from the usual AWS environment and profile; AWS_MAX_ATTEMPTS or the profile may change the retries.

    Credentials come from botocore's own chain and are renewed long before they expire (finetune_trainer.store.
    s3_credentials). Raises botocore's errors for a profile, an endpoint or a region that cannot be.
    """
    core = botocore.session.Session()
    core.register_component("data_loader", _models(core.get_config_variable("data_path")))
    attempts = core.get_config_variable("max_attempts") or MAX_ATTEMPTS
    common = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=STS_READ_SECONDS,
    )
    core.set_default_client_config(common)  # also of the clients by which botocore fetches credentials
    # The checksum protects the body; a SHA-256 of it beside that costs more than all the rest (docs/adr/0015).
    s3: Any = {"payload_signing_enabled": False} | (core.get_config_variable("s3") or {})
    config = Config(
        signature_version="s3v4",
        read_timeout=READ_SECONDS,
        tcp_keepalive=True,
        max_pool_connections=CONNECTIONS,
        # We send CRC64NVME ourselves; the default extra CRC32 breaks older S3-compatible stores (boto3 issue 4392).
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3=s3,
    )
    keep_renewed(core.get_credentials())
    client = boto3.session.Session(botocore_session=core).client("s3", config=config)
    widen_retries(client, attempts, CONNECTIONS)
    client.meta.events.register_first("needs-retry.s3", _give_up)
    client.meta.events.register("before-send.s3", send_uncopied)
    if members := {MEMBERS[name]: os.environ[name] for name in MEMBERS if os.environ.get(name)}:
        client.meta.events.register("before-parameter-build.s3", _adder(members))
    return client


@cache
def _models(path: str | None) -> Loader:
    """botocore's models, which are parsed once by process: that is most of what a client costs."""
    return create_loader(path)


def _adder(members: Mapping[str, str]) -> Callable[..., None]:
    """A handler that adds those members that the operation's request has: encryption to writes, the owner to all."""

    def add(params: dict[str, Any], model: OperationModel, **_: Any) -> None:
        known = model.input_shape.members if model.input_shape else {}
        for name in members.keys() & known.keys():
            params.setdefault(name, members[name])

    return add


def never_trusted(error: BaseException | None) -> bool:
    """Whether it is TLS that failed, and for good: a connection that ends in the middle is an SSLError too."""
    return isinstance(error, SSLError) and any(word in str(error) for word in NO_TLS)


def _give_up(caught_exception: Exception | None, request_dict: Mapping[str, Any], **_: Any) -> None:
    """Retry no connection that will never be trusted; botocore takes all TLS errors for transient ones.

    Nor a create whose connection broke: the answer that the object is there comes before the end of a body, and is
    lost so each time. Who creates looks first, and then tries again.
    """
    creates = "If-None-Match" in request_dict["headers"]
    if isinstance(caught_exception, SSLError) and (creates or never_trusted(caught_exception)):
        raise caught_exception


def attempts_of(client: S3Client) -> int:
    """How often the client tries a request, the first time included."""
    retries: dict[str, int] = client.meta.config.retries  # type: ignore[attr-defined]  # set from our Config
    return retries["total_max_attempts"]


def redacted(text: str) -> str:
    """`text` without the user and password that an address may carry."""
    return re.sub(r"//[^/@\s]+@", "//", text)
