"""A real relay that stops, freezes, refuses and cuts: nothing is lost, nothing out of order."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import random
import re
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from websockets.datastructures import HeadersLike
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection, serve

from arawn_cli import addresses
from arawn_cli.courier import Pace
from arawn_cli.credentials import Token
from arawn_cli.delivery import Delivery, Terms
from arawn_cli.drain import Tally
from arawn_cli.errors import ConfigurationError
from arawn_cli.events import to_json
from arawn_cli.outbox import Outbox
from arawn_cli.parcels import Delivered, Parcel, Refused, Undelivered
from arawn_cli.sinks.relay import HttpRelay
from arawn_cli.sinks.websocket import WebSocketRelay
from arawn_cli.state import State
from tests.relay_fixtures import Nchan, build, needs_nchan
from tests.simulated_relay import pressure, waiting

pytest_plugins = ("tests.relay_fixtures",)
pytestmark = needs_nchan

TOKEN = Token("tok-3nchan")
ONE = Parcel("event-1", "disk_pressure", "2026-01-01T00:00:00Z", "//host/arawn-cli", b'{"n":1}', "total", "warning")


class Runs:
    """Runs that share an outbox; every event that they raise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.raised: list[str] = []

    def __call__(self, url: str, count: int, *, timeout: float = 1, deadline: float = 10, padding: int = 0) -> Tally:
        address = addresses.parse(url)
        relay = WebSocketRelay(address, None, None, "") if address.is_websocket else HttpRelay(address, TOKEN, None, time.time)
        pace = Pace(time.monotonic, time.sleep, random.random, lambda: False)
        state = State(self.directory, time.time_ns)
        delivery = Delivery(relay, Outbox(state, 1000), Terms(("disk_pressure",), timeout, deadline), pace)
        for _ in range(count):
            event = replace(pressure(len(self.raised)), workstream_name="x" * padding)
            self.raised.append(to_json(event))
            delivery.emit(event)
        try:
            return delivery.finish()
        finally:
            state.close()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    logging.getLogger("arawn_cli").propagate = True
    return Runs(tmp_path / "state")


def first_arrivals(messages: list[str]) -> list[str]:
    return list(dict.fromkeys(messages))


def everything(relay: Nchan, channel: str) -> list[str]:
    marker = HttpRelay(addresses.parse(relay.url(f"/open/{channel}")), None, None, time.time)
    assert marker.attempt([replace(ONE, body=b"the end")], 5) == Delivered()
    marker.close()
    return relay.everything(channel, "the end")


@pytest.mark.parametrize(("path", "scheme"), [("/pub/restart", "http"), ("/wspub/restart", "ws")])
def test_a_restart_in_mid_stream_loses_nothing_and_keeps_the_order(runs: Runs, nchan: Nchan, path: str, scheme: str) -> None:
    """A subscriber of each life of the relay listens, because a restart forgets what was buffered."""
    first: list[str] = []
    started = threading.Event()

    def listen() -> None:
        with nchan.subscriber("restart") as connection:
            started.set()
            try:
                while True:
                    first.append(str(connection.recv(timeout=10)))
            except Exception:  # noqa: S110 - the relay goes away, which is the point
                pass

    listener = threading.Thread(target=listen)
    listener.start()
    started.wait(10)
    sender = threading.Thread(target=runs, args=(nchan.url(path, scheme), 400))
    sender.start()
    while len(first) < 20 and sender.is_alive():
        time.sleep(0.001)
    nchan.stop()
    listener.join(10)
    nchan.start()
    sender.join(20)
    runs(nchan.url(path, scheme), 1)
    assert waiting(runs.directory) == []
    # The relay may have taken some and died before it told its subscribers: they are missing between the two lives at most.
    arrived = first_arrivals(first + everything(nchan, "restart"))
    places = [runs.raised.index(message) for message in arrived]
    assert places == sorted(places)
    assert runs.raised[-1] in arrived
    if scheme == "http":
        ids = [json.loads(event)["id"] for event in runs.raised]
        # What the relay took is in its log, which outlives it, in order; but for what it passed on and died before it logged.
        requests = [json.loads(line) for line in (nchan.directory / "headers.log").read_text().splitlines()]
        taken = dict.fromkeys(request["id"] for request in requests if request["status"] in (201, 202))
        passed_on = {json.loads(message)["id"] for message in first}
        assert list(taken) == [event for event in ids if event in taken]
        assert set(ids) == taken.keys() | passed_on


def test_a_frozen_relay_gives_duplicates_with_the_same_id_at_most(runs: Runs, nchan: Nchan) -> None:
    url = nchan.url("/pub/frozen")
    runs(url, 2)
    with nchan.frozen():
        assert runs(url, 2, timeout=0.3, deadline=1.2).lost == 0
        assert len(waiting(runs.directory)) == 2
    runs(url, 1)
    messages = everything(nchan, "frozen")
    assert first_arrivals(messages) == runs.raised
    repeated = {json.loads(message)["id"] for message in messages if messages.count(message) > 1}
    assert repeated <= {"event-2"}


def test_an_overloaded_relay_is_left_alone_for_as_long_as_it_asks(
    runs: Runs, shared_nchan: Nchan, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    runs(shared_nchan.url("/fail/503"), 1, deadline=2.5)
    assert time.monotonic() - began > 1
    assert "503 come back" in caplog.text
    runs(shared_nchan.url("/pub/overload"), 1)
    assert everything(shared_nchan, "overload") == runs.raised


def test_one_event_a_second_is_delivered_as_far_as_the_deadline_goes(runs: Runs, nchan: Nchan) -> None:
    assert runs(nchan.url("/slow/slow"), 5, timeout=5, deadline=2.4).delivered in (2, 3)
    runs(nchan.url("/pub/slow"), 1)
    assert first_arrivals(everything(nchan, "slow")) == runs.raised


def test_an_event_that_is_too_large_blocks_none_behind_it(runs: Runs, shared_nchan: Nchan, caplog: pytest.LogCaptureFixture) -> None:
    runs(shared_nchan.url("/small/large"), 1)
    runs(shared_nchan.url("/small/large"), 1, padding=2000)
    tally = runs(shared_nchan.url("/small/large"), 1)
    assert "413" in caplog.text
    assert tally.lost == 0
    assert waiting(runs.directory) == ["event-1"]
    assert everything(shared_nchan, "large") == [runs.raised[0], runs.raised[2]]


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_cut_connections_keep_events(runs: Runs, shared_nchan: Nchan, scheme: str) -> None:
    assert runs(shared_nchan.url("/drop", scheme), 3, deadline=0.6).lost == 0
    channel = f"cut-{scheme}"
    runs(shared_nchan.url(f"/pub/{channel}"), 1)
    assert everything(shared_nchan, channel) == runs.raised


def test_two_runs_at_once_send_no_event_twice(runs: Runs, shared_nchan: Nchan) -> None:
    runs("http://127.0.0.1:1/", 100, deadline=0.1)
    url = shared_nchan.url("/pub/twice")
    threads = [threading.Thread(target=runs, args=(url, 0)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert everything(shared_nchan, "twice") == runs.raised


@pytest.mark.parametrize(
    ("path", "said"), [("/moved", "307, a redirect, which is never followed"), ("/centrifugo", "200 {"), ("/nowhere", "404 ")]
)
def test_what_is_no_success_is_refused(shared_nchan: Nchan, path: str, said: str) -> None:
    relay = HttpRelay(addresses.parse(shared_nchan.url(path)), None, None, time.time)
    answer = relay.attempt([ONE], 5)
    relay.close()
    assert isinstance(answer, Refused)
    assert answer.answer.startswith(said)


@pytest.mark.parametrize("scheme", ["https", "wss"])
@pytest.mark.parametrize(
    ("name", "since", "until", "sentence"),
    [
        ("other.example", -1, 1, "is for another host"),
        ("127.0.0.1", -2, -1, "has expired"),
        ("127.0.0.1", 1, 2, "is not valid yet; is the clock of this machine right?"),
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
    address, authority = addresses.parse(nginx.tls_url("/open/x", scheme)), tmp_path / "ca.pem"
    relay = HttpRelay(address, None, authority, time.time) if scheme == "https" else WebSocketRelay(address, None, authority, "")
    answer = relay.attempt([ONE], 5)
    relay.close()
    nginx.stop()
    assert isinstance(answer, Undelivered)
    assert answer.hopeless
    assert sentence in answer.reason


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


class Arawn:
    """A WebSocket server with Arawn's handshake."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.origins: list[str | None] = []

    def talk(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.origins.append(connection.request.headers.get("Origin"))
        hello = json.loads(connection.recv(timeout=5))
        if hello["token"] == "cut":
            connection.socket.shutdown(socket.SHUT_RDWR)
            return
        accepted = hello == {"type": "auth", "token": TOKEN.value}
        connection.send("welcome")
        connection.send('{"type":"welcome"}')
        error = None if accepted else f"no such token {hello['token']}"
        connection.send(json.dumps({"type": "auth_result", "success": accepted, "error": error}))
        for message in connection:
            self.heard.append(str(message))

    @contextmanager
    def listening(self) -> Iterator[str]:
        with serve(self.talk, "127.0.0.1", 0, max_size=100) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws"
            server.shutdown()
            thread.join()


def spoken(url: str, *bodies: bytes, token: Token = TOKEN) -> object:
    parcels = [replace(ONE, body=body) for body in bodies]
    return WebSocketRelay(addresses.parse(url), token, None, "https://arawn.example").attempt(parcels, 2)


def test_frames_follow_arawns_handshake_with_the_configured_origin() -> None:
    arawn = Arawn()
    with arawn.listening() as url:
        assert spoken(url, b"one", b"two") == Delivered()
    assert arawn.heard == ["one", "two"]
    assert arawn.origins == ["https://arawn.example"]


def test_a_token_that_is_not_accepted_is_told_without_it() -> None:
    arawn = Arawn()
    with arawn.listening() as url:
        answer = spoken(url, b"one", token=Token("wr0ng"))
    assert answer == Undelivered("the relay does not accept the token: no such token ***", hopeless=True)
    assert arawn.heard == []


def test_how_a_connection_closes_tells_what_became_of_the_events() -> None:
    with Arawn().listening() as url:
        answer = spoken(url, b"x" * 200)
        assert isinstance(answer, Refused)
        assert answer.answer.startswith("close 1009")
        assert isinstance(spoken(url, b"one", token=Token("cut")), Undelivered)


def test_a_token_that_is_turned_down_by_closing_refuses_no_event() -> None:
    def talk(connection: ServerConnection) -> None:
        connection.recv(timeout=5)
        connection.close(1008, "bad token")

    with serve(talk, "127.0.0.1", 0) as server, running(server.serve_forever, server.shutdown):
        answer = spoken(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws", b"one")
    assert answer == Undelivered("the relay does not accept the token: close 1008 bad token", hopeless=True)


def test_a_server_that_talks_without_end_neither_fills_memory_nor_stops_delivery() -> None:
    def talk(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                connection.send("x" * 60_000)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serve(talk, "127.0.0.1", 0) as server, running(server.serve_forever, server.shutdown):
        relay = WebSocketRelay(addresses.parse(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws"), None, None, "")
        assert [relay.attempt([ONE], 5) for _ in range(5)] == [Delivered()] * 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 12_000


@contextmanager
def running(serve_forever: Callable[[], None], shutdown: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=serve_forever)
    thread.start()
    try:
        yield
    finally:
        shutdown()
        thread.join()


@contextmanager
def answering(*chunks: bytes, pause: float = 0.0, heard: list[bytes] | None = None, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that takes one connection, in TLS if told to, answers a request with some bytes, and hangs up; its port."""
    ended = threading.Event()

    def talk() -> None:
        plain, _ = listener.accept()
        with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) if context else plain as connection:
            request = connection.recv(65_536)
            if heard is not None:
                heard.append(request)
            for chunk in chunks:
                connection.sendall(chunk)
                if ended.wait(pause):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            thread.join()


def test_a_status_counts_however_slowly_its_body_comes() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head, *[b"1\r\nx\r\n"] * 100, pause=0.1) as port:
        relay = HttpRelay(addresses.parse(f"http://127.0.0.1:{port}/"), None, None, time.time)
        began = time.monotonic()
        assert relay.attempt([ONE], 0.5) == Delivered()
        assert time.monotonic() - began < 3
        relay.close()


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_connection_that_ends_in_the_middle_of_the_tls_handshake_is_tried_again(scheme: str) -> None:
    with answering() as port:
        address = addresses.parse(f"{scheme}://127.0.0.1:{port}/")
        relay = HttpRelay(address, None, None, time.time) if scheme == "https" else WebSocketRelay(address, None, None, "")
        answer = relay.attempt([ONE], 2)
        relay.close()
    assert isinstance(answer, Undelivered)
    assert not answer.hopeless


def tried(url: str, authority: Path | None = None, timeout: float = 2) -> object:
    """What a relay's client makes of one attempt."""
    address = addresses.parse(url)
    relay = WebSocketRelay(address, None, authority, "") if address.is_websocket else HttpRelay(address, None, authority, time.time)
    try:
        return relay.attempt([ONE], timeout)
    finally:
        relay.close()


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_certificate_that_is_not_for_servers_is_told_in_openssls_words(tmp_path: Path, scheme: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*only_for_clients(authority, tmp_path))
    with answering(context=context) as port:
        answer = tried(f"{scheme}://127.0.0.1:{port}/", tmp_path / "ca.pem")
    assert isinstance(answer, Undelivered)
    assert answer.hopeless
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
        answer = tried(f"{scheme}://127.0.0.1:{port}/", tmp_path / "ca.pem")
    assert answer == Undelivered("TLS with 127.0.0.1 failed: SSLV3_ALERT_HANDSHAKE_FAILURE", hopeless=True)


@contextmanager
def crowded() -> Iterator[int]:
    """A port whose queue of connections is full: the kernel takes no further one, and does not say so."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.create_connection(listener.getsockname()):
        yield listener.getsockname()[1]


def test_a_relay_that_cannot_be_reached_in_time_cannot_have_the_event() -> None:
    with crowded() as port:
        assert tried(f"http://127.0.0.1:{port}/", timeout=0.2) == Undelivered(f"127.0.0.1 port {port} was not reached within 0.2 s")
        assert tried(f"ws://127.0.0.1:{port}/", timeout=0.2) == Undelivered(f"127.0.0.1 port {port} did not answer within 0.2 s")


@pytest.mark.parametrize(
    ("token", "told"), [(TOKEN, "did not answer within 0.4 s"), (None, "closed the connection (1006) before all was confirmed")]
)
def test_a_websocket_relay_that_falls_silent_holds_an_attempt_no_longer_than_it_may_take(token: Token | None, told: str) -> None:
    """It does not even answer the closing handshake; where it did not answer the token it was sent no event."""
    ended = threading.Event()

    def open_only() -> None:
        with listener.accept()[0] as connection:
            server = ServerProtocol()
            server.receive_data(connection.recv(65_536))
            (request,) = server.events_received()
            assert isinstance(request, Request)
            server.send_response(server.accept(request))
            connection.sendall(b"".join(server.data_to_send()))
            ended.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener, running(open_only, ended.set):
        port = listener.getsockname()[1]
        began = time.monotonic()
        answer = WebSocketRelay(addresses.parse(f"ws://127.0.0.1:{port}/"), token, None, "").attempt([ONE], 0.4)
        assert time.monotonic() - began < 0.75
    assert isinstance(answer, Undelivered)
    assert told in answer.reason
    assert ("it may have the events" in answer.reason) is (token is None)


def test_a_status_counts_though_its_body_is_cut() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nqueued") as port:
        assert tried(f"http://127.0.0.1:{port}/") == Delivered()


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_user_and_password_of_an_address_go_into_the_header_alone(scheme: str) -> None:
    heard: list[bytes] = []
    with answering(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", heard=heard) as port:
        answer = tried(f"{scheme}://ann:p%40ss@127.0.0.1:{port}/pub")
    assert answer == (Refused("401") if scheme == "http" else Undelivered("the relay opens no WebSocket connection: 401", hopeless=True))
    (request,) = heard
    assert b"\r\nAuthorization: Basic YW5uOnBAc3M=\r\n" in request
    assert b"ann" not in request
    assert b"ss@" not in request


def test_what_answers_in_another_protocol_is_no_websocket_server() -> None:
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        answer = tried(f"ws://127.0.0.1:{port}/")
    assert answer == Undelivered(f"127.0.0.1 port {port} is no WebSocket server: did not receive a valid HTTP response")


def test_an_overloaded_websocket_relay_says_for_how_long_it_wants_to_be_left_alone(shared_nchan: Nchan) -> None:
    assert tried(shared_nchan.url("/fail/503", "ws")) == Undelivered("the relay answers 503 come back", retry_after=1)


def test_a_relay_that_hangs_up_before_it_is_asked_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a proxy with nothing behind it; here the request waits until the end of the connection has been read."""
    real = ClientConnection.handshake

    def handshake(self: ClientConnection, headers: HeadersLike | None, agent: str | None, timeout: float | None) -> None:
        self.recv_events_thread.join(5)
        real(self, headers, agent, timeout)

    monkeypatch.setattr(ClientConnection, "handshake", handshake)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        hanging_up = threading.Thread(target=lambda: listener.accept()[0].close())
        hanging_up.start()
        assert tried(f"ws://127.0.0.1:{port}/") == Undelivered(f"127.0.0.1 port {port} closed the connection")
        hanging_up.join()


def test_authorities_in_another_form_than_pem_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.der"
    path.write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"ca\.der holds no certificate in PEM form"):
        HttpRelay(addresses.parse("https://127.0.0.1/"), None, path, time.time)


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_authorities_that_are_no_file_are_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ca"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    with pytest.raises(ConfigurationError, match="no regular file"):
        HttpRelay(addresses.parse("https://127.0.0.1/"), None, path, time.time)
