"""Connections: certificates and authorities that are not accepted, and the message for each."""

from __future__ import annotations

import datetime
import os
import re
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from arawn_cli.config import relay_url
from arawn_cli.delivery.connecting import Route, context_for
from arawn_cli.delivery.http import HttpClient, probe
from arawn_cli.delivery.message import Failed
from arawn_cli.delivery.websocket import WebSocketClient
from arawn_cli.errors import ConfigurationError
from tests.support.contrary_servers import ONE, answering, running, sent
from tests.support.relay_fixtures import build, needs_nchan

pytest_plugins = ("tests.support.relay_fixtures",)
pytestmark = needs_nchan


@pytest.mark.parametrize("scheme", ["https", "wss"])
@pytest.mark.parametrize(
    ("name", "since", "until", "sentence"),
    [
        ("other.example", -1, 1, "is for another host"),
        ("127.0.0.1", -2, -1, "has expired"),
        ("127.0.0.1", 1, 2, "is not valid yet; check the clock of this machine"),
    ],
)
def test_a_certificate_of_another_host_or_time_is_not_accepted(
    tmp_path: Path, scheme: str, name: str, since: int, until: int, sentence: str
) -> None:
    nginx = build(tmp_path)
    now = datetime.datetime.now(datetime.UTC)
    certificate = nginx.authority.issue_cert(
        name, not_before=now + datetime.timedelta(days=since), not_after=now + datetime.timedelta(days=until)
    )
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "srv.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "srv.key")
    nginx.start()
    route = Route(relay_url.parse(nginx.tls_url("/open/x", scheme)), tmp_path / "ca.pem")
    relay = HttpClient(route, None) if scheme == "https" else WebSocketClient(route, None, "")
    answer = relay.send([ONE], 5)
    relay.close()
    nginx.stop()
    assert isinstance(answer, Failed)
    assert not answer.retryable
    assert sentence in answer.reason


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_dot_at_the_end_of_a_name_is_in_no_certificate(tmp_path: Path, scheme: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", context=context) as port:
        found = probe(Route(relay_url.parse(f"{scheme}://localhost.:{port}/"), tmp_path / "ca.pem"), None, "", 5)
    assert "404" in found.text


def test_a_server_is_told_which_protocol_is_spoken(tmp_path: Path) -> None:
    chosen: list[str | None] = []
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def talk() -> None:
        with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            chosen.append(connection.selected_alpn_protocol())

    with socket.create_server(("127.0.0.1", 0)) as listener, running(talk, lambda: None):
        address = relay_url.parse(f"https://127.0.0.1:{listener.getsockname()[1]}/")
        Route(address, tmp_path / "ca.pem").connect(5).close()
    assert chosen == ["http/1.1"]


def only_for_clients(authority: trustme.CA, directory: Path) -> tuple[Path, Path]:
    """A certificate that says that it is no server's, which trustme issues none of, and its key."""
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    signer = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    leaf = authority.issue_cert("127.0.0.1")
    usual = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    builder = x509.CertificateBuilder(issuer.subject, usual.subject, usual.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(usual.not_valid_before_utc).not_valid_after(usual.not_valid_after_utc)
    for extension in usual.extensions:
        other = isinstance(extension.value, x509.ExtendedKeyUsage)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]) if other else extension.value, extension.critical
        )
    certificate, key = directory / "client.pem", directory / "client.key"
    certificate.write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    leaf.private_key_pem.write_to_path(key)
    return certificate, key


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_connection_that_ends_in_the_middle_of_the_tls_handshake_is_tried_again(scheme: str) -> None:
    with answering() as port:
        address = relay_url.parse(f"{scheme}://127.0.0.1:{port}/")
        relay = HttpClient(Route(address), None) if scheme == "https" else WebSocketClient(Route(address), None, "")
        answer = relay.send([ONE], 2)
        relay.close()
    assert isinstance(answer, Failed)
    assert answer.retryable
    assert "_ssl.c" not in answer.reason


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_certificate_that_is_not_for_servers_is_told_in_openssls_words(tmp_path: Path, scheme: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*only_for_clients(authority, tmp_path))
    with answering(context=context) as port:
        answer = sent(f"{scheme}://127.0.0.1:{port}/", tmp_path / "ca.pem")
    assert isinstance(answer, Failed)
    assert not answer.retryable
    assert re.fullmatch(r"the certificate of 127.0.0.1 is not accepted: uns\w+ certificate purpose", answer.reason)


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_relay_that_wants_a_certificate_of_its_clients_is_told_of_in_one_sentence(tmp_path: Path, scheme: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # which turns a client down in the handshake
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with answering(context=context) as port:
        answer = sent(f"{scheme}://127.0.0.1:{port}/", tmp_path / "ca.pem")
    assert answer == Failed("TLS with 127.0.0.1 failed: SSLV3_ALERT_HANDSHAKE_FAILURE", retryable=False)


def test_authorities_in_another_form_than_pem_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.der"
    path.write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"ca\.der holds no certificate in PEM format"):
        context_for(path)


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_authorities_that_are_no_file_are_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ca"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    with pytest.raises(ConfigurationError, match="not a regular file"):
        context_for(path)
