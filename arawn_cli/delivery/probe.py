"""Asking a relay whether it is there and takes the token, with nothing published."""

from __future__ import annotations

import http.client
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arawn_cli.config.relay_url import Address
from arawn_cli.delivery import tls
from arawn_cli.delivery.credentials import Token
from arawn_cli.delivery.http import USER_AGENT, authorization
from arawn_cli.delivery.message import Delivered, Refused

_CONTINUE = 100


_UNAUTHORISED = (401, 403, 407)


_UNEXPECTING = 417


_PROMISED_BYTES = 2


_LINE_BYTES = 1024


_SILENCE_SECS = 0.5


_SILENCE_ROUND_TRIPS = 4


@dataclass(frozen=True, slots=True)
class Probed:
    """What a relay's answer tells, in one sentence; `fit` is None where it does not tell whether events would be taken."""

    fit: bool | None
    text: str


def probe(address: Address, token: Token | None, ca_file: Path | None, origin: str, timeout: float) -> Probed:
    """Whether a relay is there and takes the token.

    An HTTP relay is asked whether it would take a POST (`Expect: 100-continue`, RFC 9110, 10.1.1), whose body then
    never comes; and once more without the token, because only the difference shows that the token counts. A
    WebSocket connection is opened, authenticated and closed.

    Raises:
        ConfigurationError: the file of certificate authorities cannot be used.
    """
    if address.is_websocket:
        return _probe_websocket(address, token, ca_file, origin, timeout)
    status = _asked(address, token, ca_file, timeout)
    if isinstance(status, Probed):
        return status
    if not _is_taken(status):
        return _turned_down(address, token, status)
    if token is None:
        return Probed(True, f"{address} is reachable and takes events; no token is configured")
    without = _asked(address, None, ca_file, timeout)
    if isinstance(without, int) and without in _UNAUTHORISED:
        return Probed(True, f"{address} is reachable and accepts the token")
    return Probed(None, f"{address} is reachable; whether it accepts the token shows only when an event is sent")


def _asked(address: Address, token: Token | None, ca_file: Path | None, timeout: float) -> int | Probed:
    """The status with which a relay answers the head of a POST, or why there is none."""
    connection = _connection(address, ca_file, timeout)
    try:
        connection.connect()
        connection.putrequest("POST", address.target, skip_accept_encoding=True)
        headers = {"User-Agent": USER_AGENT, "Content-Type": "application/json", **authorization(address, token)}
        for name, value in {**headers, "Content-Length": str(_PROMISED_BYTES), "Expect": "100-continue"}.items():
            connection.putheader(name, value)
        connection.endheaders()
    except OSError as error:
        return Probed(False, f"{address}: {_why(error, address, ca_file, timeout)}")
    else:
        return _status(connection, address)
    finally:
        connection.close()


def _connection(address: Address, ca_file: Path | None, timeout: float) -> http.client.HTTPConnection:
    if address.is_secure:
        return http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=tls.context_for(ca_file))
    return http.client.HTTPConnection(address.host, address.port, timeout=timeout)


def _status(connection: http.client.HTTPConnection, address: Address) -> int | Probed:
    """The last status that comes back unasked; http.client itself would read past a 100.

    nginx says 100 to a request that it turns down in the same breath: only silence after it is consent.
    """
    asked = time.monotonic()
    with connection.sock.makefile("rb") as answer:
        try:
            status = _status_line(answer)
        except TimeoutError:
            return Probed(None, f"{address} is reachable, and says nothing before it has an event")
        if status == _CONTINUE:
            connection.sock.settimeout(max(_SILENCE_SECS, _SILENCE_ROUND_TRIPS * (time.monotonic() - asked)))
            with suppress(TimeoutError):
                http.client.parse_headers(answer)
                status = _status_line(answer)
    return Probed(False, f"{address} closed the connection, or does not speak HTTP") if status is None else status


def _status_line(answer: BinaryIO) -> int | None:
    try:
        words = answer.readline(_LINE_BYTES).split()
    except TimeoutError:
        raise
    except OSError:
        return None
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else None


def _is_taken(status: int) -> bool:
    return status == _CONTINUE or 200 <= status < 300


def _turned_down(address: Address, token: Token | None, status: int) -> Probed:
    if status in _UNAUTHORISED:
        told = f"does not accept the token ({status})" if token else f"wants a token ({status}), and none is configured"
        return Probed(False, f"{address} {told}")
    if status == _UNEXPECTING:
        return Probed(None, f"{address} is reachable, and says nothing before it has an event ({status})")
    if 300 <= status < 400:
        return Probed(False, f"{address} answers {status}, a redirect, which is never followed: set url to where the relay is")
    return Probed(False, f"{address} answers {status} to a POST")


def _why(error: OSError, address: Address, ca_file: Path | None, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"not reached within {timeout:g} s"
    return tls.sentence(error, address, ca_file) or f"takes no connection: {error.strerror or type(error).__name__}"


def _probe_websocket(address: Address, token: Token | None, ca_file: Path | None, origin: str, timeout: float) -> Probed:
    from arawn_cli.delivery.websocket import WebSocketRelay

    answer = WebSocketRelay(address, token, ca_file, origin).attempt([], timeout)
    if isinstance(answer, Delivered):
        return Probed(True, f"{address} is reachable" + (" and accepts the token" if token else "; no token is configured"))
    return Probed(False, f"{address}: {answer.answer if isinstance(answer, Refused) else answer.reason}")
