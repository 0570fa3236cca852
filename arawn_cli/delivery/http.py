"""Send events to a relay with HTTP POST, and ask any relay whether it accepts the token."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, parse_headers

from arawn_cli.delivery.connecting import Route
from arawn_cli.delivery.credentials import Token, authorization
from arawn_cli.delivery.message import (
    PROXY_UNAUTHORISED,
    UNAUTHORISED,
    USER_AGENT,
    Delivered,
    Failed,
    OutgoingEvent,
    Refused,
    SendResult,
    interpret_response,
)

# Enough to interpret an answer; the connection of a longer one is closed.
_ANSWER_BYTES = 65_536


class HttpClient:
    """Send one event per POST, all of them over one connection if the relay keeps it open."""

    batch_size = 1

    def __init__(self, route: Route, token: Token | None) -> None:
        self._route = route
        self._secrets = route.secrets(token)
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "ce-specversion": "1.0",
            **authorization(route.address, token),
        }
        # An attempt takes a connection out: no other one shares it if the attempt is abandoned.
        self._unused: list[HTTPConnection] = []

    def send(self, events: Sequence[OutgoingEvent], timeout: float) -> SendResult:
        """Post the one event; without an answer in time it is unknown whether the relay has it."""
        (event,) = events
        end = time.monotonic() + timeout
        try:
            connection = self._open_connection() or self._route.connect(timeout)
        except (OSError, HTTPException) as error:
            return self._unreachable(error, timeout)
        headers = {
            **self._headers,
            "ce-id": event.event_id,
            "ce-source": event.source,
            "ce-type": event.type,
            "ce-time": event.time,
            "Idempotency-Key": event.event_id,
        }
        try:
            answer = post(connection, self._route, headers, event.body, end)
        except (OSError, HTTPException) as error:
            connection.close()
            return self._unanswered(error, timeout)
        if connection.sock is not None:
            self._unused.append(connection)
        return self._interpret(answer)

    def close(self) -> None:
        """Close the connection."""
        while self._unused:
            self._unused.pop().close()

    def _open_connection(self) -> HTTPConnection | None:
        """Return the connection of an earlier event, unless the relay has closed it since."""
        if not self._unused:
            return None
        connection = self._unused.pop()
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        if not poll.poll(0):
            return connection
        connection.close()
        return None

    def _unreachable(self, error: OSError | HTTPException, timeout: float) -> Failed:
        if (failed := self._route.failure(error)) is not None:
            return failed
        if isinstance(error, socket.gaierror):
            return Failed(f"the name {(self._route.proxy or self._route.address).host} cannot be resolved")
        if isinstance(error, TimeoutError):
            return Failed(f"cannot connect to {self._route.peer} within {timeout:.1f} s")
        return Failed(f"cannot connect to {self._route.peer}: {self._route.cause_of(error)}")

    def _unanswered(self, error: OSError | HTTPException, timeout: float) -> Failed:
        if (failed := self._route.failure(error)) is not None:
            return failed
        if isinstance(error, TimeoutError):
            return Failed(f"{self._route.peer} did not answer within {timeout:.1f} s; it may have the event")
        if isinstance(error, OSError):
            return Failed(f"{self._route.peer} closed the connection: {self._route.cause_of(error)}")
        return Failed(f"{self._route.peer} does not speak HTTP: {self._route.cause_of(error)}")

    def _interpret(self, answer: Answer) -> SendResult:
        status = answer.status
        if self._route.proxy is not None and status == PROXY_UNAUTHORISED:
            return self._route.unauthorised
        if 200 <= status < 300 and not answer.is_complete:
            return Failed(f"{self._route.server} did not complete its answer {status}; it may have the event")
        return interpret_response(status, answer.body, answer.retry_after, time.time(), self._secrets)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a POST.

    Attributes:
        body: its start.
        is_complete: whether `body` is the whole body, or as much as is needed of a long one.
        retry_after: the header `Retry-After`, or None.
    """

    status: int
    body: bytes
    is_complete: bool
    retry_after: str | None


def post(connection: HTTPConnection, route: Route, headers: Mapping[str, str], body: bytes, end: float) -> Answer:
    """Send a POST, and read the start of the answer until `end`, on the monotonic clock.

    The connection can be used again if it has a socket afterwards.

    Raises:
        OSError: the connection broke; `TimeoutError` if there was no answer in time.
        HTTPException: the answer is not HTTP.
    """
    if (left := end - time.monotonic()) <= 0:
        raise TimeoutError
    connection.sock.settimeout(left)
    with suppress(BrokenPipeError, ConnectionResetError):  # the server may have answered before it had the body
        connection.request("POST", route.target, body, {**headers, **route.headers})
    with connection.getresponse() as response:
        start, is_whole = _read_start(response, end)
    if not is_whole:
        connection.close()
    return Answer(response.status, start[:_ANSWER_BYTES], is_whole or len(start) > _ANSWER_BYTES, response.getheader("Retry-After"))


def _read_start(response: HTTPResponse, end: float) -> tuple[bytes, bool]:
    """Read the start of the body until `end`; return it, and whether it is the whole body."""
    body = b""
    with suppress(OSError, HTTPException):  # the connection broke, or nothing came in time
        while len(body) <= _ANSWER_BYTES and time.monotonic() < end:
            more = response.read1(_ANSWER_BYTES)
            if not more:
                return body, not response.length
            body += more
    return body, False


_CONTINUE = 100
_UNAUTHORISED = (UNAUTHORISED, 403, PROXY_UNAUTHORISED)
_EXPECTATION_FAILED = 417

# Instead of a status: no answer in time, and one that is not HTTP or a closed connection.
_SILENT = 0
_NO_HTTP = -1

_LINE_BYTES = 1024

# How long a relay must be silent after a 100 before it counts as consent.
_SILENCE_SECS = 1.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a probe in one sentence.

    `ok` is None if the answer does not tell whether events would be accepted.
    """

    ok: bool | None
    text: str


def probe(route: Route, token: Token | None, origin: str, timeout: float) -> ProbeResult:
    """Check whether a relay can be reached and accepts the token; `timeout` is in seconds.

    An HTTP relay is asked whether it would accept a POST (`Expect: 100-continue`, RFC 9110,
    10.1.1), whose body then never comes; and again without the token, because only the difference
    shows that the token matters. A WebSocket connection is opened, authenticated and closed.

    Raises:
        ConfigurationError: the file of certificate authorities cannot be used.
    """
    address = route.address
    if address.is_websocket:
        from arawn_cli.delivery.websocket import WebSocketClient

        result = WebSocketClient(route, token, origin).send([], timeout)
        if isinstance(result, Delivered):
            return ProbeResult(True, f"{route} is reachable" + (" and accepts the token" if token else "; no token is configured"))
        return ProbeResult(False, f"{address}: {result.answer if isinstance(result, Refused) else result.reason}")
    try:
        status = _ask(route, token, timeout)
        is_accepted = status == _CONTINUE or 200 <= status < 300
        without = _ask(route, None, timeout) if token and is_accepted else None
    except TimeoutError:
        return ProbeResult(False, f"{route}: cannot connect within {timeout:g} s")
    except (OSError, HTTPException) as error:
        failed = route.failure(error)
        return ProbeResult(False, f"{route}: {failed.reason if failed else f'cannot connect: {route.cause_of(error)}'}")
    if is_accepted:
        if token is None:
            return ProbeResult(True, f"{route} is reachable and accepts events; no token is configured")
        if without in _UNAUTHORISED:
            return ProbeResult(True, f"{route} is reachable and accepts the token")
        return ProbeResult(None, f"{address} is reachable; whether it accepts the token shows only when an event is sent")
    if status in (_SILENT, _EXPECTATION_FAILED):
        number = f" ({status})" if status else ""
        return ProbeResult(None, f"{address} is reachable, and does not answer before it has an event{number}")
    if status == _NO_HTTP:
        return ProbeResult(False, f"{address} closed the connection, or does not speak HTTP")
    if status == PROXY_UNAUTHORISED and route.proxy is not None:
        return ProbeResult(False, f"{route}: {route.unauthorised.reason}")
    if status in _UNAUTHORISED:
        reason = f"does not accept the token ({status})" if token else f"requires a token ({status}), and none is configured"
        return ProbeResult(False, f"{address} {reason}")
    if 300 <= status < 400:
        return ProbeResult(False, f"{address} answers {status}, a redirect, which is never followed; set url to where the relay is")
    return ProbeResult(False, f"{address} answers {status} to a POST")


def _ask(route: Route, token: Token | None, timeout: float) -> int:
    """Return the last status with which a relay answers the head of a POST, before its body.

    nginx sends a 100 and at once the status that rejects the request: only silence after a 100 is
    consent. http.client itself would read past a 100.

    Raises:
        OSError, HTTPException: no connection was made; `TimeoutError` if none was made in time.
    """
    with closing(route.connect(timeout)) as connection:
        connection.putrequest("POST", route.target, skip_accept_encoding=True)
        headers = {"User-Agent": USER_AGENT, "Content-Type": "application/json", **authorization(route.address, token), **route.headers}
        for name, value in {**headers, "Content-Length": "2", "Expect": "100-continue"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        status = _SILENT
        with connection.sock.makefile("rb") as answer:
            try:
                status = _status_in(answer.readline(_LINE_BYTES))
                if status == _CONTINUE:
                    connection.sock.settimeout(_SILENCE_SECS)
                    parse_headers(answer)
                    status = _status_in(answer.readline(_LINE_BYTES))
            except TimeoutError:
                return status
            except (OSError, HTTPException):
                return _NO_HTTP
        return status


def _status_in(line: bytes) -> int:
    words = line.split()
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else _NO_HTTP
