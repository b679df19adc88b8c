"""Certificates as files: when they are renewed, what stays, and that clients trust them over every change."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from endpoint import short_lives
from finetune_operator.progress.certificates import CA, CA_KEY, CERTIFICATE, KEY, read_authorities, renewed
from finetune_operator.progress.secret import load_pair

NAMES = ("finetune-operator.finetune.svc", "finetune-operator.finetune.svc.cluster.local", "127.0.0.1")
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
Files = dict[str, bytes]


def first(now: datetime = NOW) -> Files:
    files = renewed(None, NAMES, now)
    assert files is not None
    return files


def again(files: Files, now: datetime, names: tuple[str, ...] = NAMES) -> Files:
    """The files after another look at them."""
    return renewed(files, names, now) or files


def serial(files: Files) -> int:
    return x509.load_pem_x509_certificate(files[CERTIFICATE]).serial_number


@contextmanager
def served(files: Files) -> Iterator[int]:
    """A TLS server with these files; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(context, files[CERTIFICATE], files[KEY])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer, args=(listener, context), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
    thread.join(10)


def _answer(listener: socket.socket, context: ssl.SSLContext) -> None:
    client, _ = listener.accept()
    try:
        with context.wrap_socket(client, server_side=True) as tls:
            tls.recv(1)
    except ssl.SSLError:
        client.close()


def trusts(ca: bytes, files: Files, name: str = NAMES[0]) -> bool:
    """Whether a client that trusts `ca` talks to a server with these files, looking for `name`."""
    context = ssl.create_default_context(cadata=ca.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 asks for by itself
    with served(files) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        try:
            with context.wrap_socket(client, server_hostname=name) as tls:
                tls.sendall(b"x")
                return True
        except ssl.SSLCertVerificationError:
            return False


@pytest.mark.parametrize("name", NAMES)
def test_a_client_finds_every_name_in_the_certificate(name: str) -> None:
    files = first()
    assert trusts(files[CA], files, name)


def test_a_client_of_another_installation_and_one_that_looks_for_another_name_hang_up() -> None:
    files = first()
    assert not trusts(first()[CA], files)
    assert not trusts(files[CA], files, "finetune-operator.other.svc")


def test_what_is_good_is_left_as_it_is() -> None:
    files = first()
    assert renewed(files, NAMES, NOW) is None
    assert renewed(files, tuple(reversed(NAMES)), NOW + 59 * DAY) is None


def test_a_certificate_is_renewed_a_month_before_its_end_by_the_same_authority() -> None:
    files = first(NOW - 60 * DAY)
    later = again(files, NOW)
    assert serial(later) != serial(files)
    assert (later[CA], later[CA_KEY]) == (files[CA], files[CA_KEY])
    assert trusts(files[CA], later)


def test_another_name_of_the_service_makes_another_certificate_of_the_same_authority() -> None:
    files = first()
    later = again(files, NOW, (*NAMES, "other.svc"))
    assert later[CA] == files[CA]
    assert trusts(files[CA], later, "other.svc")


def test_every_client_trusts_every_certificate_over_a_change_of_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours stand for years: a run that was given two authorities is served until long after the first one is gone."""
    short_lives(monkeypatch)
    files = first()
    seen = [files := again(files, NOW + timedelta(hours=hour)) for hour in range(13)]
    authorities = [len(read_authorities(one)) for one in seen]
    assert authorities == [1] * 5 + [2] * 8
    first_only, both, third = seen[0][CA], seen[5][CA], seen[12][CA]
    assert both.startswith(first_only)
    assert first_only not in third
    assert [trusts(first_only, one) for one in seen] == [True] * 7 + [False] * 6
    assert [trusts(both, one) for one in seen[:12]] == [True] * 12
    assert [trusts(third, one) for one in seen[7:]] == [True] * 6


def test_an_authority_signs_nothing_that_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    short_lives(monkeypatch)
    files = first(NOW)
    for hour in range(40):
        files = again(files, NOW + timedelta(hours=hour))
        certificate = x509.load_pem_x509_certificate(files[CERTIFICATE])
        (signer,) = [
            one.certificate for one in read_authorities(files) if one.certificate.subject == certificate.issuer
        ]
        assert certificate.not_valid_after_utc <= signer.not_valid_after_utc
        assert certificate.not_valid_after_utc > NOW + timedelta(hours=hour)


@pytest.mark.parametrize("lost", [CA, CA_KEY, CERTIFICATE, KEY])
@pytest.mark.parametrize("content", [None, b"", b"not PEM", "another"])
def test_what_is_lost_or_damaged_is_made_anew(lost: str, content: bytes | str | None) -> None:
    files = first()
    damaged = dict(files)
    del damaged[lost]
    if content is not None:
        damaged[lost] = first()[lost] if isinstance(content, str) else content
    healed = renewed(damaged, NAMES, NOW)
    assert healed is not None
    assert renewed(healed, NAMES, NOW) is None
    assert trusts(healed[CA], healed)
    if lost in (CERTIFICATE, KEY):
        assert trusts(files[CA], healed), "who trusted it before still does"
