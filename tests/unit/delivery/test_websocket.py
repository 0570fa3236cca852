"""Send over WebSocket: Arawn's handshake, how a connection closes, silence and noise."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from arawn_cli.config import relay_url
from arawn_cli.delivery.connecting import Route
from arawn_cli.delivery.credentials import Token
from arawn_cli.delivery.message import Delivered, Failed, Refused
from arawn_cli.delivery.websocket import WebSocketClient
from tests.support.contrary_servers import ONE, TOKEN, answering, running, sent
from tests.support.relay_fixtures import Nchan, needs_nchan
from tests.support.websocket_upgrade import accept_upgrade

pytest_plugins = ("tests.support.relay_fixtures",)
pytestmark = needs_nchan


class Arawn:
    """A WebSocket server with Arawn's handshake."""

    def __init__(self) -> None:
        self.received: list[str] = []
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
            self.received.append(str(message))

    @contextmanager
    def listening(self) -> Iterator[str]:
        with serve(self.talk, "127.0.0.1", 0, max_size=100) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws"
            server.shutdown()
            thread.join()


def sent_to(url: str, *bodies: bytes, token: Token = TOKEN) -> object:
    events = [replace(ONE, body=body) for body in bodies]
    return WebSocketClient(Route(relay_url.parse(url)), token, "https://arawn.example").send(events, 2)


def test_frames_follow_arawns_handshake_with_the_configured_origin() -> None:
    arawn = Arawn()
    with arawn.listening() as url:
        assert sent_to(url, b"one", b"two") == Delivered()
    assert arawn.received == ["one", "two"]
    assert arawn.origins == ["https://arawn.example"]


def test_a_token_that_is_not_accepted_is_not_shown() -> None:
    arawn = Arawn()
    with arawn.listening() as url:
        answer = sent_to(url, b"one", token=Token("wr0ng"))
    assert answer == Failed("the relay does not accept the token: no such token ***", retryable=False)
    assert arawn.received == []


def test_the_close_code_decides_about_the_events() -> None:
    with Arawn().listening() as url:
        answer = sent_to(url, b"x" * 200)
        assert isinstance(answer, Refused)
        assert answer.answer.startswith("close 1009")
        assert isinstance(sent_to(url, b"one", token=Token("cut")), Failed)


def test_a_close_that_rejects_the_token_refuses_no_event() -> None:
    def talk(connection: ServerConnection) -> None:
        connection.recv(timeout=5)
        connection.close(1008, "bad token")

    with serve(talk, "127.0.0.1", 0) as server, running(server.serve_forever, server.shutdown):
        answer = sent_to(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws", b"one")
    assert answer == Failed("the relay does not accept the token: close 1008 bad token", retryable=False)


def test_a_relay_that_talks_without_end_neither_fills_memory_nor_stops_delivery() -> None:
    def talk(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                connection.send("x" * 60_000)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serve(talk, "127.0.0.1", 0) as server, running(server.serve_forever, server.shutdown):
        relay = WebSocketClient(Route(relay_url.parse(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws")), None, "")
        assert [relay.send([ONE], 5) for _ in range(5)] == [Delivered()] * 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 12_000


@pytest.mark.parametrize(
    ("token", "reason"), [(TOKEN, "did not answer the token within 0.4 s"), (None, "did not confirm the events in time")]
)
def test_an_attempt_ends_in_time_if_the_relay_falls_silent(token: Token | None, reason: str) -> None:
    """It does not answer the closing handshake. Without an answer to the token it gets no event."""
    ended = threading.Event()

    def open_only() -> None:
        with listener.accept()[0] as connection:
            accept_upgrade(connection)
            ended.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as listener, running(open_only, ended.set):
        port = listener.getsockname()[1]
        began = time.monotonic()
        answer = WebSocketClient(Route(relay_url.parse(f"ws://127.0.0.1:{port}/")), token, "").send([ONE], 0.4)
        assert time.monotonic() - began < 5  # by itself, the library waits ten seconds for the closing handshake
    assert isinstance(answer, Failed)
    assert reason in answer.reason
    assert ("it may have them" in answer.reason) is (token is None)


def test_the_time_that_an_attempt_had_is_rounded() -> None:
    """The last one of a run has what is left until the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert sent(f"ws://127.0.0.1:{port}/", timeout=0.123456) == Failed(f"127.0.0.1 port {port} did not answer within 0.12 s")


def test_an_answer_in_another_protocol_is_a_failure() -> None:
    with answering(b"SSH-2.0-OpenSSH_9.2\r\n") as port:
        answer = sent(f"ws://127.0.0.1:{port}/")
    assert answer == Failed(f"127.0.0.1 port {port} is not a WebSocket server: did not receive a valid HTTP response")


def test_an_overloaded_websocket_relay_is_retried_after_the_requested_pause(shared_nchan: Nchan) -> None:
    assert sent(shared_nchan.url("/fail/503", "ws")) == Failed("the relay answers 503 come back", retry_after=1)


def test_a_relay_that_closes_the_connection_at_once_is_retried() -> None:
    """As a proxy with nothing behind it does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        closing = threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True)
        closing.start()
        result = sent(f"ws://127.0.0.1:{port}/")
        closing.join()
    assert result == Failed(f"127.0.0.1 port {port} closed the connection")


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/", "ws://127.0.0.1:1/"])
def test_a_redirect_is_not_followed(location: str) -> None:
    with answering(f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()) as port:
        result = sent(f"ws://127.0.0.1:{port}/")
    assert isinstance(result, Failed)
    assert not result.retryable
    assert "307, a redirect, which is never followed" in result.reason


def test_events_that_exceed_all_buffers_arrive_while_the_relay_talks() -> None:
    """Each side has more to send than socket buffers hold, so neither may wait for the other."""
    received: list[int] = []

    def talk(connection: ServerConnection) -> None:
        for _ in range(200):
            connection.send("x" * 60_000)
        received.extend(len(message) for message in connection)

    with serve(talk, "127.0.0.1", 0, max_size=None) as server, running(server.serve_forever, server.shutdown):
        client = WebSocketClient(Route(relay_url.parse(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws")), None, "")
        assert client.send([replace(ONE, body=b"x" * 200_000)] * 60, 10) == Delivered()
    assert received == [200_000] * 60


def test_a_relay_that_closes_normally_before_it_has_all_events_confirms_none() -> None:
    def talk(connection: ServerConnection) -> None:
        connection.recv(timeout=5)
        connection.send('{"type":"auth_result","success":true}')
        connection.recv(timeout=5)
        connection.close()

    with serve(talk, "127.0.0.1", 0) as server, running(server.serve_forever, server.shutdown):
        result = sent_to(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws", *[b"x" * 100_000] * 90)
    assert isinstance(result, Failed)
    assert "before it confirmed the events (close 1000); it may have them" in result.reason
