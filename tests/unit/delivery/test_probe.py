"""Asking a real relay whether it takes the token, with nothing published."""

from __future__ import annotations

import socket
import struct
import threading

import pytest
import urllib3
from websockets.frames import Close, Frame, Opcode
from websockets.sync.server import ServerConnection, serve

from arawn_cli.config import relay_url
from arawn_cli.delivery.credentials import Token
from arawn_cli.delivery.probe import Probed, probe
from tests.support.contrary_servers import answering, crowded, running
from tests.support.relay_fixtures import TOKEN, Nchan, free_port, needs_nchan, shared_nchan

__all__ = ["shared_nchan"]


def probed(url: str, token: str | None, nchan: Nchan | None = None, timeout: float = 5) -> Probed:
    authority = nchan.directory / "ca.pem" if nchan else None
    return probe(relay_url.parse(url), Token(token) if token else None, authority, "", timeout)


@needs_nchan
@pytest.mark.parametrize(
    ("path", "token", "fit", "words"),
    [
        ("/pub/probe", TOKEN, True, "is reachable and accepts the token"),
        ("/pub/probe", "wrong", False, "does not accept the token (401)"),
        ("/pub/probe", None, False, "wants a token (401), and none is configured"),
        ("/open/probe", None, True, "no token is configured"),
        ("/open/probe", TOKEN, None, "shows only when an event is sent"),
        ("/nowhere", TOKEN, False, "answers 404 to a POST"),
        ("/fail/503", TOKEN, False, "answers 503 to a POST"),
        ("/moved", TOKEN, False, "a redirect, which is never followed"),
        ("/drop", TOKEN, False, "closed the connection"),
    ],
)
def test_an_http_relay_is_asked_without_an_event(shared_nchan: Nchan, path: str, token: str | None, fit: bool | None, words: str) -> None:
    found = probed(shared_nchan.url(path), token)
    assert found.fit is fit
    assert words in found.text


@needs_nchan
def test_nothing_is_published_and_tls_is_verified(shared_nchan: Nchan) -> None:
    assert probed(shared_nchan.tls_url("/pub/quiet"), TOKEN, shared_nchan).fit is True
    assert "signed by an authority" in probed(shared_nchan.tls_url("/pub/quiet"), TOKEN).text
    assert probed(shared_nchan.url("/wspub/quiet", "ws"), None).fit is True
    published = urllib3.request("POST", shared_nchan.url("/open/quiet"), body=b"marker")
    assert published.status in (201, 202)
    assert shared_nchan.everything("quiet", "marker") == []


def test_a_relay_that_is_not_there_is_unfit() -> None:
    for scheme in ("http", "ws"):
        found = probed(f"{scheme}://127.0.0.1:{free_port()}/pub", None)
        assert found.fit is False
        assert "takes no connection: Connection refused" in found.text


def test_a_relay_that_says_nothing_before_it_has_an_event_is_reachable_and_no_more_is_known() -> None:
    with answering(b"", pause=5) as port:
        url = f"http://127.0.0.1:{port}/pub"
        assert probed(url, None, timeout=0.1) == Probed(None, f"{url} is reachable, and says nothing before it has an event")
    with answering(b"HTTP/1.1 417 Expectation Failed\r\n\r\n") as port:
        url = f"http://127.0.0.1:{port}/pub"
        assert probed(url, None) == Probed(None, f"{url} is reachable, and says nothing before it has an event (417)")


def test_a_relay_that_resets_the_connection_is_unfit() -> None:
    def reset() -> None:
        connection, _ = listener.accept()
        connection.recv(65_536)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/pub"
        resetting = threading.Thread(target=reset)
        resetting.start()
        assert probed(url, None) == Probed(False, f"{url} closed the connection, or does not speak HTTP")
        resetting.join()


def test_a_relay_that_cannot_be_reached_in_time_is_unfit() -> None:
    with crowded() as port:
        url = f"http://127.0.0.1:{port}/pub"
        assert probed(url, None, timeout=0.2) == Probed(False, f"{url}: not reached within 0.2 s")


def test_a_websocket_relay_that_takes_the_token_and_turns_us_down_is_unfit() -> None:
    def talk(connection: ServerConnection) -> None:
        connection.recv(timeout=5)
        accepted = Frame(Opcode.TEXT, b'{"type":"auth_result","success":true}')
        closing = Frame(Opcode.CLOSE, Close(1008, "no publisher").serialize())
        connection.socket.sendall(accepted.serialize(mask=False) + closing.serialize(mask=False))  # at once, so that neither comes alone

    with serve(talk, "127.0.0.1", 0) as server, running(server.serve_forever, server.shutdown):
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws"
        assert probed(url, TOKEN) == Probed(False, f"{url}: close 1008 no publisher")
