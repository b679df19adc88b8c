"""What went wrong with S3, in words that say what to check or to write."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    LoginError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)

from finetune_trainer.errors import StorageError
from finetune_trainer.store.objects import ObjectNotFound, StorageRefused
from finetune_trainer.store.s3_client import KMS_KEY, OWNER, never_trusted, redacted

KEYS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE"
ENDPOINT = "check {setting} (now {endpoint}) and the network, on a cluster {field} of the runtime"
S3_SETTING = {"setting": "AWS_ENDPOINT_URL", "field": "storage.endpoint"}
STS_SETTING = {"setting": "AWS_ENDPOINT_URL_STS", "field": "storage.webIdentity.stsEndpoint"}
KMS_FIELD = "storage.serverSideEncryption.keyId of the runtime"
RENEW = "get new ones; long runs need credentials that renew themselves: a role, web identity or a profile that does"

# Error code of the STS -> (what it means, what to do, whether starting again cannot help).
ROLE = "check AWS_ROLE_ARN (now {role}) and whom that role trusts"
STS: dict[str, tuple[str, str, bool]] = {
    "InvalidIdentityToken": (
        "it does not believe the web identity token ({words})",
        "check AWS_WEB_IDENTITY_TOKEN_FILE, on a cluster storage.webIdentity.audience of the runtime, and that the STS "
        "trusts the cluster's issuer",
        True,
    ),
    "AccessDenied": ("it does not give the role to this identity ({words})", ROLE, True),
    "ValidationError": ("the role cannot be ({words})", ROLE, True),
    "ExpiredTokenException": (
        "the web identity token has expired",
        "have it renewed, on a cluster by the kubelet",
        False,
    ),
}

# S3 error code -> (what it means, what to do). Placeholders: bucket, endpoint.
REFUSED = {
    "NoSuchBucket": ("the bucket {bucket!r} does not exist at {endpoint}", "create it or write another uri"),
    "InvalidBucketName": ("{bucket!r} is no bucket name", "write s3://<bucket>/<prefix>"),
    "InvalidAccessKeyId": ("{endpoint} does not know the access key id", KEYS + "; keys belong to one endpoint"),
    "SignatureDoesNotMatch": ("the secret key does not fit the access key id", KEYS),
    "AuthorizationHeaderMalformed": ("the request was signed for another region", "set AWS_DEFAULT_REGION"),
    "PermanentRedirect": (
        "the bucket {bucket!r} is in another region or at another endpoint",
        "set AWS_DEFAULT_REGION",
    ),
    "AccessDenied": (
        "these credentials may not do it",
        "grant s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket on the bucket {bucket!r}; without "
        "s3:ListBucket a missing object, too, is answered so",
    ),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set it by NTP (timedatectl set-ntp true)"),
    "NotImplemented": ("{endpoint} does not offer what is needed", "use a store with conditional writes"),
    "EntityTooLarge": ("the object is too large for one request", "write smaller objects"),
    "InvalidObjectState": ("the object is archived", "restore it from its archive storage class first"),
}
FAILED = {
    "ExpiredToken": ("the credentials have expired", RENEW),
    "InvalidToken": ("the session token is not valid", KEYS),
    "SlowDown": ("{endpoint} throttles requests, after all retries", "run it again later; it continues"),
    "ServiceUnavailable": ("{endpoint} is overloaded or down, after all retries", "run it again later; it continues"),
    "InternalError": ("{endpoint} failed, after all retries", "run it again later; it continues"),
    "RequestTimeout": ("the data did not arrive in time, after all retries", "check the network"),
    "BadDigest": ("the data arrived damaged and was not stored", "run it again; if it comes back, suspect the network"),
    "QuotaExceeded": ("the store's quota is used up", "make room in the bucket {bucket!r} or raise the quota"),
    "InsufficientStorage": ("the store is full", "make room at {endpoint}"),
}
SAME = {
    "ExpiredTokenException": "ExpiredToken",
    "TokenRefreshRequired": "ExpiredToken",
    "RequestExpired": "ExpiredToken",
    "AllAccessDisabled": "AccessDenied",
    "AccountProblem": "AccessDenied",
    "UnauthorizedAccess": "AccessDenied",
    "403": "AccessDenied",
    "401": "AccessDenied",
    "XAdminUserNotFound": "InvalidAccessKeyId",  # versitygw
    "301": "PermanentRedirect",
    "IllegalLocationConstraintException": "PermanentRedirect",
    "400": "BadRequest",
    "500": "InternalError",
    "502": "ServiceUnavailable",
    "503": "ServiceUnavailable",
    "504": "ServiceUnavailable",
    "429": "SlowDown",
    "507": "InsufficientStorage",
    "XMinioStorageFull": "InsufficientStorage",
    "XAmzContentChecksumMismatch": "BadDigest",
    "XAmzContentSHA256Mismatch": "BadDigest",
    "MethodNotAllowed": "NotImplemented",
}
# botocore's own errors, the most specific first. Kind: True if starting again cannot help.
CLIENT_SIDE: list[tuple[type[BaseException] | tuple[type[BaseException], ...], bool, str]] = [
    (
        NoCredentialsError,
        True,
        "there are no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    (
        PartialCredentialsError,
        True,
        "the S3 credentials are incomplete: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (ProfileNotFound, True, "{reason}: correct or unset AWS_PROFILE"),
    (ConfigParseError, True, "the AWS configuration file cannot be read: correct ~/.aws/config"),
    (
        (SSOError, LoginError, TokenRetrievalError),
        True,
        "the AWS login has ended: run `aws sso login` or `aws login` again",
    ),
    (CredentialRetrievalError, False, "the S3 credentials could not be fetched: check the role or AWS_PROFILE"),
    (ProxyConnectionError, False, "the proxy does not answer: check HTTPS_PROXY and NO_PROXY"),
    (
        SSLError,
        True,
        "the TLS certificate of {endpoint} is not trusted: set AWS_CA_BUNDLE (now {authority}) to the store's CA, "
        "on a cluster storage.caConfigMap of the runtime, or correct {setting}",
    ),
    (ConnectTimeoutError, False, "{endpoint} does not answer: " + ENDPOINT),
    (EndpointConnectionError, False, "{endpoint} cannot be reached: " + ENDPOINT),
    (ReadTimeoutError, False, "{endpoint} stopped answering: " + ENDPOINT),
    (ConnectionClosedError, False, "{endpoint} closed the connection, after all retries: " + ENDPOINT),
    (HTTPClientError, False, "the connection to {endpoint} broke, after all retries: " + ENDPOINT),
    (
        (FileNotFoundError, PermissionError),
        True,
        "the S3 credentials cannot be read ({reason}): check AWS_WEB_IDENTITY_TOKEN_FILE and AWS_PROFILE",
    ),
    (RecursionError, True, "{endpoint} redirects in a circle, as no S3 store does: " + ENDPOINT),
    (RuntimeError, False, "the S3 credentials cannot be renewed ({reason}): check this machine's clock"),
    (ParamValidationError, True, "{bucket!r} is no bucket name: write s3://<bucket>/<prefix>"),
]


UNREACHABLE = (ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError, ProxyConnectionError)


class StoreUnreachable(StorageError):
    """Nothing answers at the store's address, or at that of the STS; another request would fare no better."""


@dataclass(frozen=True)
class Place:
    """What an error message names: the bucket and the endpoint."""

    bucket: str
    endpoint: str


def code_of(error: ClientError) -> str:
    """The S3 error code; the HTTP status as text where the answer had no body, as for HEAD."""
    return str(error.response.get("Error", {}).get("Code", ""))


def retries_of(error: ClientError) -> int:
    """How often botocore had sent the request before without an answer that counts."""
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def explain(error: Exception, action: str, place: Place) -> StorageError:
    """The StorageError for an error of botocore that was met when doing `action`, such as `write s3://b/k`."""
    if isinstance(error, ClientError):
        of_sts = error.operation_name.startswith("AssumeRole")
        return _explain_sts(error, action) if of_sts else _explain_answer(error, action, place)
    for kinds, final, text in CLIENT_SIDE:
        if isinstance(error, kinds) and (kinds is not SSLError or never_trusted(error)):
            endpoint = _asked(error) or place.endpoint
            told = STS_SETTING if endpoint == _sts() != place.endpoint else S3_SETTING
            found = {"bucket": place.bucket, "endpoint": endpoint, "reason": redacted(str(error)), **told}
            found["authority"] = os.environ.get("AWS_CA_BUNDLE") or "not set"
            message = f"cannot {action}: {text.format_map(found)}"
            if isinstance(error, UNREACHABLE):
                return StoreUnreachable(message)
            return StorageRefused(message) if final else StorageError(message)
    final = isinstance(error, BotoCoreError | ValueError) and not isinstance(error, SSLError)  # one that broke off
    message = f"cannot {action}: {redacted(str(error))}"
    return StorageRefused(message) if final else StorageError(message)


def not_s3(what: str, answer: str, place: Place) -> StorageRefused:
    """The error for an answer that no S3 store gives."""
    check = ENDPOINT.format(endpoint=place.endpoint, **S3_SETTING)
    return StorageRefused(f"{what}: {place.endpoint} {answer}, as no S3 store does: {check}")


def _asked(error: Exception) -> str:
    """Scheme and host that did not answer: the store's, or those of the STS; empty where botocore does not say."""
    url = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
    return redacted(f"{url.scheme}://{url.netloc}") if url.netloc else ""


def _sts() -> str:
    return redacted(os.environ.get("AWS_ENDPOINT_URL_STS", "")).rstrip("/")


def _explain_sts(error: ClientError, action: str) -> StorageError:
    code = code_of(error)
    words = redacted(str(error.response.get("Error", {}).get("Message", "")))
    sts, role = _sts() or "AWS STS", os.environ.get("AWS_ROLE_ARN", "")
    meaning, remedy, final = STS.get(code, ("it failed ({words})", "run it again later; it continues", False))
    text = f"{meaning}; {remedy}".format(words=words, role=role)
    message = f"cannot {action}: no S3 credentials from {sts}: {text} ({code})"
    return StorageRefused(message) if final else StorageError(message)


def _explain_answer(error: ClientError, action: str, place: Place) -> StorageError:
    raw = code_of(error)
    code = SAME.get(raw, raw)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if (not raw or raw.isdigit()) and error.operation_name != "HeadObject" and 400 <= status < 500 and status != 429:
        return not_s3(f"cannot {action}", f"answers with HTTP {status} and no S3 error", place)
    if code in ("NoSuchKey", "404"):
        return ObjectNotFound(f"cannot {action}: there is no such object")
    words = redacted(str(error.response.get("Error", {}).get("Message", "")))
    if raw.startswith("KMS"):  # KMS.NotFoundException, KMS.DisabledException, ...
        setting = f"check {KMS_KEY} (now {os.environ.get(KMS_KEY) or 'not set'}), on a cluster {KMS_FIELD}"
        return StorageRefused(f"cannot {action}: the key that encrypts cannot be used ({words}); {setting} ({raw})")
    if code in REFUSED or code in FAILED:
        meaning, remedy = REFUSED.get(code) or FAILED[code]
        text = f"{meaning}; {remedy}".format(bucket=place.bucket, endpoint=place.endpoint)
        if code == "AccessDenied" and (owner := os.environ.get(OWNER)):
            text += f", and see that the account {owner} of {OWNER} owns the bucket"
        message = f"cannot {action}: {text} ({raw})"
        return StorageRefused(message) if code in REFUSED else StorageError(message)
    return StorageError(f"cannot {action}: {place.endpoint} answered {raw} (HTTP {status}): {words}")
