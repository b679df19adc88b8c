"""Who is who in a control plane on this machine: certificate authority, users with their tokens, kubeconfig files."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = datetime.timedelta(days=30)
USERS = {  # name: groups
    "admin": ["system:masters"],
    "kube-controller-manager": ["system:masters"],
    "kuberay": ["system:masters"],
    "operator": [],  # these two may do what a test or the chart grants them
    "tenant": [],
}


def private_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def signing_key() -> rsa.RSAPrivateKey:
    """A key that signs tokens of service accounts; RSA, as nearly all clusters have it and not all readers do more."""
    return rsa.generate_private_key(65537, 2048)


def key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _builder(name: str, key: ec.EllipticCurvePrivateKey, issuer: str) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]),
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(minutes=5),
        not_valid_after=now + VALID,
    )
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


class Authority:
    """A certificate authority that lives in memory: new with each control plane. `pem` is its own certificate."""

    def __init__(self, name: str = "finetune-control-plane") -> None:
        self.name = name
        self._key = private_key()
        builder = _builder(name, self._key, name)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def issue(self, name: str, addresses: Sequence[str], hosts: Sequence[str]) -> tuple[bytes, bytes]:
        """Return certificate and private key (PEM) of a server at these IP addresses and host names, or of a user."""
        key = private_key()
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        names += [x509.DNSName(host) for host in hosts]
        builder = _builder(name, key, self.name)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM), key_pem(key)


def tokens_file(tokens: Mapping[str, str], users: Mapping[str, Sequence[str]]) -> str:
    """Return kube-apiserver's --token-auth-file for the tokens of `users`, which have these groups."""
    columns = (
        [token, user, user, *([f'"{",".join(users[user])}"'] if users[user] else [])] for user, token in tokens.items()
    )
    return "".join(",".join(line) + "\n" for line in columns)


def new_tokens(users: Iterable[str]) -> dict[str, str]:
    return {user: secrets.token_hex(16) for user in users}


def write_private(path: Path, data: bytes) -> Path:
    """Write a file that only this user can read."""
    path.touch(mode=0o600)
    path.write_bytes(data)
    return path


def kubeconfig(server: str, authority: bytes, token: str, namespace: str = "default") -> bytes:
    """Return a kubeconfig (JSON, which is YAML) of the bearer of a token; it needs no other file."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "finetune",
        "clusters": [{"name": "finetune", "cluster": cluster}],
        "users": [{"name": "finetune", "user": {"token": token}}],
        "contexts": [
            {"name": "finetune", "context": {"cluster": "finetune", "user": "finetune", "namespace": namespace}}
        ],
    }
    return json.dumps(config, indent=1).encode()
