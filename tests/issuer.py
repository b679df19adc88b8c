"""An issuer of web identity tokens, as a cluster's API server is one for its service accounts."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _text(value.to_bytes((value.bit_length() + 7) // 8, "big"))


@dataclass(frozen=True)
class Issuer:
    """Signs tokens (RFC 7519, RS256) with a key of its own."""

    name: str = "https://issuer.test"
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048), repr=False)

    @property
    def jwks(self) -> dict[str, Any]:
        """The public key as a key set (RFC 7517)."""
        public = self.key.public_key().public_numbers()
        return {"keys": [{"kty": "RSA", "kid": "one", "n": _number(public.n), "e": _number(public.e)}]}

    def token(self, subject: str, audience: str, seconds: int = 3600) -> str:
        """A token that is good for `seconds` from now; one of a negative number has expired."""
        now = int(time.time())
        claims = {"iss": self.name, "sub": subject, "aud": [audience], "iat": now, "exp": now + seconds}
        parts = [_text(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "one"}, claims)]
        signature = self.key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
        return ".".join([*parts, _text(signature)])
