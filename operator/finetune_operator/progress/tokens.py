"""Who sends a report: a projected service-account token, made for one job and bound to one pod of it.

The API server judges the token (TokenReview with the audience `<prefix>/<uid of the job>`), and its answer is kept for
at most a minute, by hash. What a token says of itself is used only to refuse it: without the API server being asked,
and with a message that names what is wrong. Whether the pod is still there and belongs to the job is not remembered:
that is looked up for every report, in the informer's store.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator.api.job import ATTEMPT, JOB_UID
from finetune_operator.kube import ApiError, Client
from finetune_operator.kube.resources import TOKENREVIEWS

LONGEST = 60.0
"""Seconds for which the API server's word on a token is kept; after that, a revoked one is refused."""

LONGEST_REFUSED = 5.0
"""Seconds for which a refusal is kept: a token that is tried again and again costs one review per 5 s."""

MOST_KEPT = 16384
MOST_REVIEWS = 256
"""Tokens remembered, and reviews under way at once; more are turned away and come again."""

PATIENCE = 4.0
"""Seconds for a review; the trainer waits 5 for its answer."""

END_OF_TIME = 2.0**53
"""Seconds since 1970 that a float holds exactly, and NaN is not less than: no token of the API server ends later."""

POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sender:
    """The pod that a token is bound to."""

    namespace: str
    pod: str
    pod_uid: str


@dataclass(frozen=True)
class Refusal:
    """Why a report is not taken: 401 without a valid token, 403 with one of somebody else, 503 when nobody can tell."""

    status: int
    message: str


class Tokens:
    """Finds the sender of a report by its token.

    Give it a client of its own (`Client.separate`), so that nothing that is sent here can use up reconciling's limit.
    `clock` is the time of day in seconds, because tokens end at a time of day.
    """

    def __init__(self, client: Client, audience_prefix: str, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._prefix = audience_prefix
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Sender | Refusal]] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[Sender | Refusal]] = {}

    def audience(self, uid: str) -> str:
        """The audience of the tokens of a job."""
        return f"{self._prefix}/{uid}"

    async def sender(self, token: str, uid: str, namespace: str) -> Sender | Refusal:
        """The pod that this token of the job `uid` in `namespace` is bound to, or why it is none."""
        audience = self.audience(uid)
        claims = read_claims(token)
        refusal = objection(claims, audience, namespace, self._clock())
        if refusal is not None:
            return refusal
        digest = hashlib.sha256(f"{namespace}\0{audience}\0{token}".encode()).digest()
        until, verdict = self._known.get(digest, (0.0, None))
        if verdict is not None and self._clock() < until:
            return verdict
        task = self._running.get(digest)
        if task is None:
            if len(self._running) >= MOST_REVIEWS:
                return Refusal(503, "too many tokens to review; come again")
            task = asyncio.create_task(self._review(digest, token, audience, namespace, float(claims["exp"])))
            self._running[digest] = task
            task.add_done_callback(lambda _: self._running.pop(digest))
        return await asyncio.shield(task)

    async def _review(
        self, digest: bytes, token: str, audience: str, namespace: str, expires: float
    ) -> Sender | Refusal:
        try:
            async with asyncio.timeout(PATIENCE):
                body = {
                    "apiVersion": TOKENREVIEWS.api_version,
                    "kind": TOKENREVIEWS.kind,
                    "metadata": {},
                    "spec": {"token": token, "audiences": [audience]},
                }
                answer = await self._client.create(TOKENREVIEWS, body)
        except (ApiError, TimeoutError) as error:
            logger.warning("the API server did not review a token: %s", str(error) or "timed out")
            return Refusal(503, "the token could not be reviewed; come again")
        verdict = judge(answer.get("status") or {}, audience, namespace)
        kept = LONGEST if isinstance(verdict, Sender) else LONGEST_REFUSED
        self._known[digest] = min(self._clock() + kept, expires), verdict
        self._known.move_to_end(digest)
        while len(self._known) > MOST_KEPT:
            self._known.popitem(last=False)
        return verdict


def read_claims(token: str) -> Mapping[str, Any]:
    """What a JSON web token says of itself, unproved; empty when it is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        return {}
    return found if isinstance(found, dict) else {}


def objection(claims: Mapping[str, Any], audience: str, namespace: str, now: float) -> Refusal | None:
    """Why a token with these claims cannot be one of the job, whoever signed it; None when the API server must say."""
    expires, audiences, cluster = claims.get("exp"), claims.get("aud"), claims.get("kubernetes.io")
    if not (isinstance(expires, int | float) and expires < END_OF_TIME and isinstance(cluster, dict)):
        return Refusal(401, "send a projected service-account token: `Authorization: Bearer <token>`")
    if expires <= now:
        return Refusal(401, "the token has expired; read its file again for every report")
    if audience not in (audiences if isinstance(audiences, list) else [audiences]):
        return Refusal(403, f"the token is not for this job: its audience must be {audience!r}")
    if cluster.get("namespace") != namespace:
        return Refusal(403, "the token is of another namespace than the job")
    if not isinstance(cluster.get("pod"), dict):
        return Refusal(403, "the token is bound to no pod; mount a projected one")
    return None


def judge(status: Mapping[str, Any], audience: str, namespace: str) -> Sender | Refusal:
    """The verdict on a token from the status of its TokenReview."""
    if status.get("authenticated") is not True:
        return Refusal(401, "the API server does not know the token, or no longer")
    if audience not in (status.get("audiences") or ()):  # a server that knows no audiences answers without
        return Refusal(403, f"the token is not for this job: its audience must be {audience!r}")
    user = status.get("user") or {}
    if not str(user.get("username", "")).startswith(f"system:serviceaccount:{namespace}:"):
        return Refusal(403, "the token is of another namespace than the job")
    extra = user.get("extra") or {}
    names, uids = list(extra.get(POD_NAME) or []), list(extra.get(POD_UID) or [])
    if len(names) != 1 or len(uids) != 1:
        return Refusal(403, "the token is bound to no pod; mount a projected one")
    return Sender(namespace, names[0], uids[0])


def attempt_of(pod: Mapping[str, Any] | None, sender: Sender, uid: str) -> int | Refusal:
    """The attempt of the job `uid` that the sender's pod, as the informer knows it, belongs to."""
    metadata = (pod or {}).get("metadata") or {}
    labels = metadata.get("labels") or {}
    number = labels.get(ATTEMPT, "")
    if metadata.get("uid") != sender.pod_uid or labels.get(JOB_UID) != uid or not number.isdecimal():
        return Refusal(403, f"pod {sender.pod} is none of this job")
    return int(number)
