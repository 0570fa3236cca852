"""Send over HTTP: redirects, slow and cut answers, credentials in headers."""

from __future__ import annotations

import time

import pytest

from arawn_cli.config import relay_url
from arawn_cli.delivery.http import HttpClient
from arawn_cli.delivery.message import Delivered, Failed, Refused
from tests.support.contrary_servers import ONE, answering, sent, unreachable
from tests.support.relay_fixtures import Nchan, needs_nchan

pytest_plugins = ("tests.support.relay_fixtures",)
pytestmark = needs_nchan


@pytest.mark.parametrize(
    ("path", "answer"), [("/moved", "307, a redirect, which is never followed"), ("/centrifugo", "200 {"), ("/nowhere", "404 ")]
)
def test_an_answer_that_is_not_a_success_is_refused(shared_nchan: Nchan, path: str, answer: str) -> None:
    relay = HttpClient(relay_url.parse(shared_nchan.url(path)), None, None, time.time)
    result = relay.send([ONE], 5)
    relay.close()
    assert isinstance(result, Refused)
    assert result.answer.startswith(answer)


def test_a_status_counts_however_slowly_its_body_comes() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head, *[b"1\r\nx\r\n"] * 100, pause=0.1) as port:
        relay = HttpClient(relay_url.parse(f"http://127.0.0.1:{port}/"), None, None, time.time)
        began = time.monotonic()
        assert relay.send([ONE], 0.5) == Delivered()
        assert time.monotonic() - began < 3
        relay.close()


def test_a_relay_that_cannot_be_reached_in_time_cannot_have_the_event() -> None:
    with unreachable() as port:
        assert sent(f"http://127.0.0.1:{port}/", timeout=0.2) == Failed(f"cannot connect to 127.0.0.1 port {port} within 0.2 s")
        assert sent(f"ws://127.0.0.1:{port}/", timeout=0.2) == Failed(f"cannot connect to 127.0.0.1 port {port} within 0.2 s")


def test_a_status_counts_though_its_body_is_cut() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nqueued") as port:
        assert sent(f"http://127.0.0.1:{port}/") == Delivered()


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_user_and_password_of_an_address_go_into_the_header_alone(scheme: str) -> None:
    received: list[bytes] = []
    with answering(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", heard=received) as port:
        answer = sent(f"{scheme}://ann:p%40ss@127.0.0.1:{port}/pub")
    assert answer == (
        Refused("401") if scheme == "http" else Failed("the relay does not open a WebSocket connection: 401", retryable=False)
    )
    (request,) = received
    assert b"\r\nAuthorization: Basic YW5uOnBAc3M=\r\n" in request
    assert b"ann" not in request
    assert b"ss@" not in request
