"""Send events to a relay with HTTP POST, and ask any relay whether it accepts the token."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError, ProxyError
from urllib3.exceptions import TimeoutError as AnyTimeoutError

from arawn_cli.delivery.connecting import Route, cause_of
from arawn_cli.delivery.credentials import Secrets, Token, authorization
from arawn_cli.delivery.message import USER_AGENT, Delivered, Failed, OutgoingEvent, Refused, SendResult, interpret_response

# Enough to interpret an answer; the connection of a longer one is closed.
_ANSWER_BYTES = 65_536

# nginx answers this, with status 400, to a request in plain text on a TLS port.
_PLAIN_ON_TLS = b"plain HTTP request was sent to HTTPS port"


class HttpClient:
    """Send one event per POST, all of them over one connection.

    `clock` is the wall clock in seconds, with which the date of a `Retry-After` is compared.

    Raises:
        ConfigurationError: the file of certificate authorities cannot be used.
    """

    batch_size = 1

    def __init__(self, route: Route, token: Token | None, clock: Callable[[], float]) -> None:
        self._route = route
        self._address = address = route.address
        self._secrets = Secrets.of(address, token, route.proxy)
        self._clock = clock
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "ce-specversion": "1.0",
            **authorization(address, token),
        }
        self._manager = route.manager()

    def send(self, events: Sequence[OutgoingEvent], timeout: float) -> SendResult:
        """Post the one event; without an answer in time it is unknown whether the relay has it."""
        (event,) = events
        end = time.monotonic() + timeout
        headers = {
            **self._headers,
            "ce-id": event.event_id,
            "ce-source": event.source,
            "ce-type": event.type,
            "ce-time": event.time,
            "Idempotency-Key": event.event_id,
        }
        try:
            response = self._manager.urlopen(
                "POST",
                self._address.plain,
                body=event.body,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(total=timeout),
                preload_content=False,
            )
        except HTTPError as error:
            return self._failure(error, timeout)
        body, is_complete = _read_start(response, end)
        peer = self._route.server
        if self._route.proxy is not None and response.status == _PROXY_UNAUTHORISED:
            return Failed(f"{self._route.peer} does not accept our user and password ({response.status})", retryable=False)
        if response.status == 400 and _PLAIN_ON_TLS in body:
            return Failed(f"{peer} speaks TLS; use https://", retryable=False)
        if 200 <= response.status < 300 and not is_complete:
            return Failed(f"{peer} did not complete its answer {response.status}; it may have the event")
        return interpret_response(response.status, body, response.headers.get("Retry-After"), self._clock(), self._secrets)

    def close(self) -> None:
        """Close the connection."""
        self._manager.clear()

    def _failure(self, error: HTTPError, timeout: float) -> Failed:
        if (failed := self._route.failure(error)) is not None:
            return failed
        peer = self._route.peer
        if isinstance(error, ProxyError) and isinstance(error.original_error, HTTPError):
            error = error.original_error
        if isinstance(error, NameResolutionError):
            return Failed(f"the name {(self._route.proxy or self._address).host} cannot be resolved")
        if isinstance(error, NewConnectionError):
            return Failed(f"cannot connect to {peer}: {cause_of(error)}")
        if isinstance(error, ConnectTimeoutError):
            return Failed(f"cannot connect to {peer} within {timeout:.1f} s")
        if isinstance(error, AnyTimeoutError):
            return Failed(f"{peer} did not answer within {timeout:.1f} s; it may have the event")
        return Failed(f"{peer} closed the connection: {cause_of(error)}")


def _read_start(response: urllib3.BaseHTTPResponse, end: float) -> tuple[bytes, bool]:
    """Read the start of the body until `end`.

    Return it, and whether it is all of a body or as much as is needed of a long one.
    """
    body = b""
    try:
        while len(body) <= _ANSWER_BYTES and time.monotonic() < end:
            more = response.read1(_ANSWER_BYTES)
            if not more:
                response.release_conn()
                return body, True
            body += more
    except HTTPError:
        pass  # the connection broke, or nothing came in time; it is closed below
    response.close()
    return body[:_ANSWER_BYTES], len(body) > _ANSWER_BYTES


_CONTINUE = 100
_PROXY_UNAUTHORISED = 407
_UNAUTHORISED = (401, 403, _PROXY_UNAUTHORISED)
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
    except OSError as error:
        failed = route.failure(error)
        return ProbeResult(False, f"{route}: {failed.reason if failed else f'cannot connect: {error.strerror or type(error).__name__}'}")
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
    if status == _PROXY_UNAUTHORISED and route.proxy is not None:
        return ProbeResult(False, f"{route}: the proxy does not accept our user and password ({status})")
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
        OSError: there is no connection; `TimeoutError` if there is none in time.
    """
    with closing(route.connection(timeout, tunnel=False)) as connection:
        connection.connect()
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
                    http.client.parse_headers(answer)
                    status = _status_in(answer.readline(_LINE_BYTES))
            except TimeoutError:
                return status
            except (OSError, http.client.HTTPException):
                return _NO_HTTP
        return status


def _status_in(line: bytes) -> int:
    words = line.split()
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else _NO_HTTP
