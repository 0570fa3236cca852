"""Send events to a relay with HTTP POST."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.exceptions import TimeoutError as AnyTimeoutError

from arawn_cli.config.relay_url import Address
from arawn_cli.delivery import tls
from arawn_cli.delivery.credentials import Secrets, Token, authorization
from arawn_cli.delivery.message import USER_AGENT, Failed, OutgoingEvent, SendResult, interpret_response

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

    def __init__(self, address: Address, token: Token | None, ca_file: Path | None, clock: Callable[[], float]) -> None:
        self._address = address
        self._secrets = Secrets.of(address, token)
        self._ca_file = ca_file
        self._clock = clock
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "ce-specversion": "1.0",
            **authorization(address, token),
        }
        host = f"[{address.host}]" if ":" in address.host else address.host
        self._pool = (
            urllib3.HTTPSConnectionPool(host, address.port, maxsize=1, ssl_context=tls.context_for(ca_file))
            if address.is_secure
            else urllib3.HTTPConnectionPool(host, address.port, maxsize=1)
        )

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
            response = self._pool.urlopen(
                "POST",
                self._address.target,
                body=event.body,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(total=timeout),
                preload_content=False,
            )
        except HTTPError as error:
            return self._failure(error, timeout)
        body = _read_start(response, end)
        if response.status == 400 and _PLAIN_ON_TLS in body:
            return Failed(f"{self._address.host} port {self._address.port} speaks TLS; use https://", retryable=False)
        return interpret_response(response.status, body, response.headers.get("Retry-After"), self._clock(), self._secrets)

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()

    def _failure(self, error: HTTPError, timeout: float) -> Failed:
        problem = tls.describe(error, self._address, self._ca_file)
        if problem is not None:
            return Failed(problem, retryable=False)
        host, port = self._address.host, self._address.port
        if isinstance(error, NameResolutionError):
            return Failed(f"the name {host} cannot be resolved")
        if isinstance(error, NewConnectionError):
            return Failed(f"cannot connect to {host} port {port}: {_cause(error)}")
        if isinstance(error, ConnectTimeoutError):
            return Failed(f"cannot connect to {host} port {port} within {timeout:.1f} s")
        if isinstance(error, AnyTimeoutError):
            return Failed(f"{host} port {port} did not answer within {timeout:.1f} s; it may have the event")
        return Failed(f"{host} port {port} closed the connection: {_cause(error)}")


def _read_start(response: urllib3.BaseHTTPResponse, end: float) -> bytes:
    """Read the start of the body until `end`; if it does not come, the status alone decides."""
    body = b""
    try:
        while len(body) <= _ANSWER_BYTES and time.monotonic() < end:
            more = response.read1(_ANSWER_BYTES)
            if not more:
                response.release_conn()
                return body
            body += more
    except HTTPError:
        pass  # what has come is enough; the connection is closed below
    response.close()
    return body[:_ANSWER_BYTES]


def _cause(error: BaseException) -> str:
    """Return the kernel's message behind an error, or else the error's type."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
