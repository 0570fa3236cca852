"""What an answer over HTTP means, however it comes, and what a request shows."""

from __future__ import annotations

import time

import pytest

from arawn_cli.config import relay_url
from arawn_cli.delivery.http import HttpRelay
from arawn_cli.delivery.message import Delivered, Refused, Undelivered
from tests.support.contrary_servers import ONE, answering, crowded, tried
from tests.support.relay_fixtures import Nchan, needs_nchan

pytest_plugins = ("tests.support.relay_fixtures",)
pytestmark = needs_nchan


@pytest.mark.parametrize(
    ("path", "said"), [("/moved", "307, a redirect, which is never followed"), ("/centrifugo", "200 {"), ("/nowhere", "404 ")]
)
def test_what_is_no_success_is_refused(shared_nchan: Nchan, path: str, said: str) -> None:
    relay = HttpRelay(relay_url.parse(shared_nchan.url(path)), None, None, time.time)
    answer = relay.attempt([ONE], 5)
    relay.close()
    assert isinstance(answer, Refused)
    assert answer.answer.startswith(said)


def test_a_status_counts_however_slowly_its_body_comes() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head, *[b"1\r\nx\r\n"] * 100, pause=0.1) as port:
        relay = HttpRelay(relay_url.parse(f"http://127.0.0.1:{port}/"), None, None, time.time)
        began = time.monotonic()
        assert relay.attempt([ONE], 0.5) == Delivered()
        assert time.monotonic() - began < 3
        relay.close()


def test_a_relay_that_cannot_be_reached_in_time_cannot_have_the_event() -> None:
    with crowded() as port:
        assert tried(f"http://127.0.0.1:{port}/", timeout=0.2) == Undelivered(f"127.0.0.1 port {port} was not reached within 0.2 s")
        assert tried(f"ws://127.0.0.1:{port}/", timeout=0.2) == Undelivered(f"127.0.0.1 port {port} did not answer within 0.2 s")


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
