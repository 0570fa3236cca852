"""A relay that takes WebSocket frames: Arawn's handshake, how a connection closes, silence and noise."""

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
from websockets.datastructures import HeadersLike
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection, serve

from arawn_cli.config import relay_url
from arawn_cli.delivery.credentials import Token
from arawn_cli.delivery.message import Delivered, Refused, Undelivered
from arawn_cli.delivery.websocket import WebSocketRelay
from tests.support.contrary_servers import ONE, TOKEN, answering, running, tried
from tests.support.relay_fixtures import Nchan, needs_nchan

pytest_plugins = ("tests.support.relay_fixtures",)
pytestmark = needs_nchan


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
    return WebSocketRelay(relay_url.parse(url), token, None, "https://arawn.example").attempt(parcels, 2)


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
        relay = WebSocketRelay(relay_url.parse(f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws"), None, None, "")
        assert [relay.attempt([ONE], 5) for _ in range(5)] == [Delivered()] * 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 12_000


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
        answer = WebSocketRelay(relay_url.parse(f"ws://127.0.0.1:{port}/"), token, None, "").attempt([ONE], 0.4)
        assert time.monotonic() - began < 0.75
    assert isinstance(answer, Undelivered)
    assert told in answer.reason
    assert ("it may have the events" in answer.reason) is (token is None)


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
