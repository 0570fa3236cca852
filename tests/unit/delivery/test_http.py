"""Send over HTTP: redirects, slow and cut answers, credentials in headers; probe a relay without
sending."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import urllib3
from websockets.frames import Close, Frame, Opcode
from websockets.sync.server import ServerConnection, serve

from arawn_cli.config import relay_url
from arawn_cli.delivery.connecting import Route
from arawn_cli.delivery.credentials import Token
from arawn_cli.delivery.http import HttpClient, ProbeResult, probe
from arawn_cli.delivery.message import Delivered, Failed, Refused
from tests.support.contrary_servers import ONE, answering, running, sent, unreachable
from tests.support.relay_fixtures import TOKEN, Nchan, free_port, needs_nchan, shared_nchan

pytest_plugins = ("tests.support.relay_fixtures",)


@needs_nchan
@pytest.mark.parametrize(("path", "answer"), [("/centrifugo", "200 {"), ("/nowhere", "404 ")])
def test_an_answer_that_is_not_a_success_is_refused(shared_nchan: Nchan, path: str, answer: str) -> None:
    relay = HttpClient(Route(relay_url.parse(shared_nchan.url(path))), None)
    result = relay.send([ONE], 5)
    relay.close()
    assert isinstance(result, Refused)
    assert result.answer.startswith(answer)


def test_a_success_that_is_not_complete_in_time_is_none() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head, *[b"1\r\nx\r\n"] * 10_000, pause=0.1) as port:
        relay = HttpClient(Route(relay_url.parse(f"http://127.0.0.1:{port}/")), None)
        assert relay.send([ONE], 0.5) == Failed(f"127.0.0.1 port {port} did not complete its answer 200; it may have the event")
        relay.close()


def test_a_relay_that_cannot_be_reached_in_time_cannot_have_the_event() -> None:
    with unreachable() as port:
        assert sent(f"http://127.0.0.1:{port}/", timeout=0.2) == Failed(f"cannot connect to 127.0.0.1 port {port} within 0.2 s")
        assert sent(f"ws://127.0.0.1:{port}/", timeout=0.2) == Failed(f"cannot connect to 127.0.0.1 port {port} within 0.2 s")


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_a_relay_that_does_not_answer_the_tls_handshake_cannot_have_the_event(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert sent(f"{scheme}://127.0.0.1:{port}/", timeout=0.2) == Failed(f"cannot connect to 127.0.0.1 port {port} within 0.2 s")


@pytest.mark.parametrize("head", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_a_success_that_is_cut_is_none(head: bytes) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n6\r\nqueued") as port:
        assert sent(f"http://127.0.0.1:{port}/") == Failed(f"127.0.0.1 port {port} did not complete its answer 200; it may have the event")


def test_a_success_needs_no_more_than_the_start_of_a_long_answer() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x" * 100_000) as port:
        assert sent(f"http://127.0.0.1:{port}/") == Delivered()


def test_a_refusal_counts_though_its_body_is_cut() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nno") as port:
        assert sent(f"http://127.0.0.1:{port}/") == Refused("400 no")


ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def conversing(*connections: list[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Accept a connection for each list, answer each request with one of its answers, and close the
    connection; yield the port, and the request lines."""
    lines: list[bytes] = []

    def talk() -> None:
        for answers in connections:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as requests:
                for answer in answers:
                    lines.append(requests.readline())
                    while not (head := requests.readline().lower()).startswith(b"content-length:"):
                        assert head
                    length = int(head.partition(b":")[2])
                    while requests.readline().strip():
                        pass
                    requests.read(length)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield listener.getsockname()[1], lines
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        ACCEPTED,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" + ACCEPTED,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ACCEPTED,
    ],
)
def test_all_events_share_a_connection(answer: bytes) -> None:
    with conversing([answer] * 3) as (port, lines):
        relay = HttpClient(Route(relay_url.parse(f"http://127.0.0.1:{port}/pub?a=b")), None)
        assert [relay.send([ONE], 5) for _ in range(3)] == [Delivered()] * 3
        relay.close()
    assert lines == [b"POST /pub?a=b HTTP/1.1\r\n"] * 3


@pytest.mark.parametrize("answer", [ACCEPTED, ACCEPTED.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), b"HTTP/1.0 200 OK\r\n\r\nok"])
def test_no_event_is_sent_over_a_connection_that_the_relay_has_closed(answer: bytes) -> None:
    with conversing(*[[answer]] * 3) as (port, lines):
        relay = HttpClient(Route(relay_url.parse(f"http://127.0.0.1:{port}/")), None)
        for _ in range(3):
            assert relay.send([ONE], 5) == Delivered()
            time.sleep(0.05)
        relay.close()
    assert len(lines) == 3


def test_a_connection_with_an_answer_that_did_not_end_in_time_is_not_used_again() -> None:
    """The rest of the answer would be taken for the answer to the next event."""
    ended = threading.Event()

    def talk() -> None:
        listener.settimeout(10)
        first, _ = listener.accept()
        with first:
            first.recv(65_536)
            first.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\nno")
            second, _ = listener.accept()
            with second:
                second.recv(65_536)
                second.sendall(ACCEPTED)
                ended.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener, running(talk, ended.set):
        relay = HttpClient(Route(relay_url.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/")), None)
        assert relay.send([ONE], 0.3) == Refused("400 no")
        assert relay.send([ONE], 5) == Delivered()
        relay.close()


def test_each_event_has_its_own_time() -> None:
    ended = threading.Event()

    def talk() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(ACCEPTED)
            ended.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listener, running(talk, ended.set):
        port = listener.getsockname()[1]
        relay = HttpClient(Route(relay_url.parse(f"http://127.0.0.1:{port}/")), None)
        assert relay.send([ONE], 30) == Delivered()
        began = time.monotonic()
        assert relay.send([ONE], 0.2) == Failed(f"127.0.0.1 port {port} did not answer within 0.2 s; it may have the event")
        assert time.monotonic() - began < 10
        relay.close()


def test_an_attempt_that_is_abandoned_shares_its_connection_with_no_other_one() -> None:
    """Otherwise the next event would be taken for delivered with the answer to this one."""
    begun, ended = threading.Event(), threading.Event()

    def talk() -> None:
        first, _ = listener.accept()
        with first:
            first.recv(65_536)
            begun.set()
            second, _ = listener.accept()
            with second:
                second.recv(65_536)
                second.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                first.sendall(ACCEPTED)
                ended.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener, running(talk, ended.set):
        relay = HttpClient(Route(relay_url.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/")), None)
        results: list[object] = []
        abandoned = threading.Thread(target=lambda: results.append(relay.send([ONE], 5)), daemon=True)
        abandoned.start()
        assert begun.wait(10)
        assert relay.send([replace(ONE, event_id="event-2")], 5) == Refused("400")
        abandoned.join(10)
        relay.close()
    assert results == [Delivered()]


def test_an_answer_that_comes_before_the_relay_has_read_the_event_counts() -> None:
    """As that of a relay that refuses a large event, and then closes the connection."""

    def talk() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")

    with socket.create_server(("127.0.0.1", 0)) as listener, running(talk, lambda: None):
        relay = HttpClient(Route(relay_url.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/")), None)
        result = relay.send([replace(ONE, body=b"x" * 30_000_000)], 5)
        relay.close()
    assert result == Refused("413 big")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection: Remote end closed connection without response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP: BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "does not speak HTTP: HTTPException"),
    ],
)
def test_no_answer_and_one_in_another_protocol_are_failures(answer: bytes, reason: str) -> None:
    with answering(answer) as port:
        assert sent(f"http://127.0.0.1:{port}/") == Failed(f"127.0.0.1 port {port} {reason}")


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_user_and_password_of_an_address_go_into_the_header_alone(scheme: str) -> None:
    received: list[bytes] = []
    with answering(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", heard=received) as port:
        answer = sent(f"{scheme}://ann:p%40ss@127.0.0.1:{port}/pub")
    assert answer == Failed("the relay requires a valid token or password: 401", retryable=False)
    (request,) = received
    assert b"\r\nAuthorization: Basic YW5uOnBAc3M=\r\n" in request
    assert b"ann" not in request
    assert b"ss@" not in request


__all__ = ["shared_nchan"]


def probed(url: str, token: str | None, nchan: Nchan | None = None, timeout: float = 5) -> ProbeResult:
    authority = nchan.directory / "ca.pem" if nchan else None
    return probe(Route(relay_url.parse(url), authority), Token(token) if token else None, "", timeout)


@needs_nchan
@pytest.mark.parametrize(
    ("path", "token", "ok", "words"),
    [
        ("/pub/probe", TOKEN, True, "is reachable and accepts the token"),
        ("/pub/probe", "wrong", False, "does not accept the token (401)"),
        ("/pub/probe", None, False, "requires a token (401), and none is configured"),
        ("/open/probe", None, True, "no token is configured"),
        ("/open/probe", TOKEN, None, "shows only when an event is sent"),
        ("/nowhere", TOKEN, False, "answers 404 to a POST"),
        ("/fail/503", TOKEN, False, "answers 503 to a POST"),
        ("/moved", TOKEN, False, "a redirect, which is never followed"),
        ("/drop", TOKEN, False, "closed the connection"),
    ],
)
def test_an_http_relay_is_asked_without_an_event(shared_nchan: Nchan, path: str, token: str | None, ok: bool | None, words: str) -> None:
    found = probed(shared_nchan.url(path), token)
    assert found.ok is ok
    assert words in found.text


@needs_nchan
def test_nothing_is_published_and_tls_is_verified(shared_nchan: Nchan) -> None:
    assert probed(shared_nchan.tls_url("/pub/quiet"), TOKEN, shared_nchan).ok is True
    assert "signed by an authority" in probed(shared_nchan.tls_url("/pub/quiet"), TOKEN).text
    assert probed(shared_nchan.url("/wspub/quiet", "ws"), None).ok is True
    published = urllib3.request("POST", shared_nchan.url("/open/quiet"), body=b"marker")
    assert published.status in (201, 202)
    assert shared_nchan.everything("quiet", "marker") == []


def test_a_relay_that_is_down_fails() -> None:
    for scheme in ("http", "ws"):
        found = probed(f"{scheme}://127.0.0.1:{free_port()}/pub", None)
        assert found.ok is False
        assert "Connection refused" in found.text


def test_a_relay_that_does_not_answer_before_it_has_an_event_is_undecided() -> None:
    with answering(b"", pause=5) as port:
        url = f"http://127.0.0.1:{port}/pub"
        assert probed(url, None, timeout=0.1) == ProbeResult(None, f"{url} is reachable, and does not answer before it has an event")
    with answering(b"HTTP/1.1 417 Expectation Failed\r\n\r\n") as port:
        url = f"http://127.0.0.1:{port}/pub"
        assert probed(url, None) == ProbeResult(None, f"{url} is reachable, and does not answer before it has an event (417)")


def test_a_relay_that_resets_the_connection_fails() -> None:
    def reset() -> None:
        connection, _ = listener.accept()
        connection.recv(65_536)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/pub"
        resetting = threading.Thread(target=reset, daemon=True)
        resetting.start()
        assert probed(url, None) == ProbeResult(False, f"{url} closed the connection, or does not speak HTTP")
        resetting.join()


def test_a_relay_that_cannot_be_reached_in_time_fails() -> None:
    with unreachable() as port:
        url = f"http://127.0.0.1:{port}/pub"
        assert probed(url, None, timeout=0.2) == ProbeResult(False, f"{url}: cannot connect within 0.2 s")


def test_a_websocket_relay_that_accepts_the_token_and_then_closes_fails() -> None:
    def talk(connection: ServerConnection) -> None:
        connection.recv(timeout=5)
        accepted = Frame(Opcode.TEXT, b'{"type":"auth_result","success":true}')
        closing = Frame(Opcode.CLOSE, Close(1008, "no publisher").serialize())
        connection.socket.sendall(accepted.serialize(mask=False) + closing.serialize(mask=False))  # at once, so that neither comes alone

    with serve(talk, "127.0.0.1", 0) as server, running(server.serve_forever, server.shutdown):
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws"
        assert probed(url, TOKEN) == ProbeResult(
            False, f"{url}: {url[5:-3].replace(':', ' port ')} closed the connection before it was sent an event: close 1008 no publisher"
        )
