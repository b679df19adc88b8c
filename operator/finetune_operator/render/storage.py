"""The store as pods see it: its address, its encryption, and credentials by reference or by web identity."""

from __future__ import annotations

from finetune_operator.api.job import Job
from finetune_operator.api.runtime import RuntimeSpec, RuntimeStorage, WebIdentity
from finetune_operator.render.names import Object, attempt_name, service_account
from finetune_operator.render.places import STORAGE_CA_DIR, WEB_IDENTITY_DIR

# Credentials come from the Secret or from the service account, never from the node's own role.
NO_NODE_ROLE = {"AWS_EC2_METADATA_DISABLED": "true"}

TOKEN = "token"


def web_identity(job: Job, runtime: RuntimeSpec) -> WebIdentity | None:
    """How the job takes its role; None for one with a Secret, and where the cloud sees to it."""
    storage = job.manifest.spec.storage
    return None if storage and storage.secret_ref else runtime.storage.web_identity


def store_variables(job: Job, runtime: RuntimeSpec, number: int) -> dict[str, str]:
    """What AWS' SDKs and the trainer's store read: address, authority, encryption, and whose token to exchange for
    credentials where."""
    storage = runtime.storage
    found = {
        "AWS_ENDPOINT_URL_S3": storage.endpoint,
        "AWS_REGION": storage.region,
        "AWS_DEFAULT_REGION": storage.region,  # the only one of the two that botocore reads
        "AWS_CA_BUNDLE": f"{STORAGE_CA_DIR}/ca.crt" if storage.ca_config_map else None,
    }
    found |= request_variables(storage)
    if (identity := web_identity(job, runtime)) is not None:
        found |= {
            "AWS_ROLE_ARN": role(identity, job),
            "AWS_ROLE_SESSION_NAME": attempt_name(job.name, job.uid, number),
            "AWS_WEB_IDENTITY_TOKEN_FILE": f"{WEB_IDENTITY_DIR}/{TOKEN}",
            "AWS_ENDPOINT_URL_STS": identity.sts_endpoint,
        }
    return {**NO_NODE_ROLE, **{name: value for name, value in found.items() if value is not None}}


def request_variables(storage: RuntimeStorage) -> dict[str, str | None]:
    """What the trainer's store adds to its requests, by the variables of finetune_trainer.store.s3_client."""
    encryption = storage.server_side_encryption
    return {
        "FINETUNE_S3_SERVER_SIDE_ENCRYPTION": encryption.type.value if encryption else None,
        "FINETUNE_S3_KMS_KEY_ID": encryption.key_id if encryption else None,
        "FINETUNE_S3_EXPECTED_BUCKET_OWNER": storage.expected_bucket_owner,
    }


def role(identity: WebIdentity, job: Job) -> str:
    """The ARN of the job's role."""
    return identity.role_arn.replace("{namespace}", job.namespace).replace("{serviceAccount}", service_account(job))


def token_source(identity: WebIdentity, seconds: int) -> Object:
    """A volume with the token, which the kubelet renews after four fifths of its life."""
    token = {"path": TOKEN, "audience": identity.audience, "expirationSeconds": seconds}
    return {"projected": {"sources": [{"serviceAccountToken": token}]}}
