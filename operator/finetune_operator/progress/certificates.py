"""The endpoint's certificate and the authority that signs it: made here, kept in a Secret, renewed in time.

`ca.crt` of the Secret is what pods are given. A run reads it once and may live for weeks, so authorities live long and
overlap: two years before the oldest ends, a new one is added to `ca.crt`; it signs only one year later, when every run
that has not heard of it is over. Serving certificates live 90 days.

`cryptography` does it: the standard library makes no certificates, calling `openssl` would put keys on a disk, and
cert-manager would be one more thing to install before the operator. It adds 18 MB to the image and 8 MB of memory.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3650)
SUCCESSOR_BEFORE = timedelta(days=730)
"""What is left of the newest authority when the next one is made and given to new runs."""

SIGNS_UNTIL = timedelta(days=365)
"""What is left of an authority when it signs no more; also the longest that a run can go without a new `ca.crt`."""

CERTIFICATE_LIFE = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
SKEW = timedelta(days=1)
"""How far back certificates begin, for clocks that are late."""

CA, CA_KEY, CERTIFICATE, KEY = "ca.crt", "ca.key", "tls.crt", "tls.key"
"""Keys of the Secret: authorities and their keys, oldest first; the serving certificate and its key. All are PEM."""

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Authority:
    """A certificate authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def left(self, now: datetime) -> timedelta:
        """Time until it ends."""
        return self.certificate.not_valid_after_utc - now


def renewed(files: Files | None, names: Sequence[str], now: datetime) -> dict[str, bytes] | None:
    """The files as they should be from now on, or None when they are good as they are.

    `names` are the host names and IP addresses of the endpoint. What cannot be read is replaced.
    """
    found = read_authorities(files or {})
    authorities = [one for one in found if one.left(now) > timedelta(0)]
    if not authorities or authorities[-1].left(now) < SUCCESSOR_BEFORE:
        authorities.append(new_authority(now))
    signer = next(one for one in authorities if one.left(now) > SIGNS_UNTIL)
    kept = None if files is None else _good_pair(files, signer, names, now)
    if kept is not None and authorities == found:
        return None
    certificate, key = kept or issue(signer, names, now)
    return {
        CA: b"".join(one.certificate.public_bytes(Encoding.PEM) for one in authorities),
        CA_KEY: b"".join(_key_pem(one.key) for one in authorities),
        CERTIFICATE: certificate,
        KEY: key,
    }


def read_authorities(files: Files) -> list[Authority]:
    """The authorities in a Secret, oldest first; none when certificates and keys do not belong together."""
    try:
        certificates = x509.load_pem_x509_certificates(files[CA])
        keys = [load_pem_private_key(pem, None) for pem in _split(files[CA_KEY])]
    except (KeyError, ValueError, TypeError):
        return []
    pairs = [
        Authority(certificate, key)
        for certificate, key in zip(certificates, keys, strict=False)
        if isinstance(key, ec.EllipticCurvePrivateKey) and certificate.public_key() == key.public_key()
    ]
    return pairs if len(pairs) == len(certificates) == len(keys) else []


def new_authority(now: datetime) -> Authority:
    """A self-signed authority; its name is its own, so that clients tell it from the one before."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"finetune-operator {now:%Y-%m-%d} {x509.random_serial_number() % 10**6:06}")
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
    )
    return Authority(builder.sign(key, hashes.SHA256()), key)


def issue(signer: Authority, names: Sequence[str], now: datetime) -> tuple[bytes, bytes]:
    """A serving certificate for these names and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name("finetune-operator"), signer.certificate.subject, key.public_key(), now, CERTIFICATE_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
    )
    return builder.sign(signer.key, hashes.SHA256()).public_bytes(Encoding.PEM), _key_pem(key)


def _good_pair(files: Files, signer: Authority, names: Sequence[str], now: datetime) -> tuple[bytes, bytes] | None:
    """The serving certificate and its key, if it is for these names, by this signer, and lives long enough."""
    try:
        certificate = x509.load_pem_x509_certificate(files[CERTIFICATE])
        key = load_pem_private_key(files[KEY], None)
        certificate.verify_directly_issued_by(signer.certificate)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (KeyError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return None
    good = (
        certificate.public_key() == key.public_key()
        and set(found) == {_general_name(name) for name in names}
        and certificate.not_valid_after_utc - now > RENEW_BEFORE
    )
    return (files[CERTIFICATE], files[KEY]) if good else None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - SKEW,
        not_valid_after=now + life,
    )
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _split(pem: bytes) -> list[bytes]:
    """The single blocks of a PEM file."""
    end = b"-----END PRIVATE KEY-----\n"
    return [block + end for block in pem.split(end) if block.strip()]
