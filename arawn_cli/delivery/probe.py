"""Ask a relay whether it accepts the token, without publishing anything."""

from __future__ import annotations

import http.client
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arawn_cli.config.relay_url import Address
from arawn_cli.delivery import tls
from arawn_cli.delivery.credentials import Token, authorization
from arawn_cli.delivery.message import USER_AGENT, Delivered, Refused

_CONTINUE = 100
_UNAUTHORISED = (401, 403, 407)
_EXPECTATION_FAILED = 417

_PROMISED_BYTES = 2
_LINE_BYTES = 1024

# How long a relay must be silent after a 100 before it counts as consent.
_SILENCE_SECS = 0.5
_SILENCE_ROUND_TRIPS = 4


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a probe in one sentence.

    `ok` is None if the answer does not tell whether events would be accepted.
    """

    ok: bool | None
    text: str


def probe(address: Address, token: Token | None, ca_file: Path | None, origin: str, timeout: float) -> ProbeResult:
    """Check whether a relay can be reached and accepts the token; `timeout` is in seconds.

    An HTTP relay is asked whether it would accept a POST (`Expect: 100-continue`, RFC 9110,
    10.1.1), whose body then never comes; and again without the token, because only the difference
    shows that the token matters. A WebSocket connection is opened, authenticated and closed.

    Raises:
        ConfigurationError: the file of certificate authorities cannot be used.
    """
    if address.is_websocket:
        return _probe_websocket(address, token, ca_file, origin, timeout)
    status = _ask(address, token, ca_file, timeout)
    if isinstance(status, ProbeResult):
        return status
    if status != _CONTINUE and not 200 <= status < 300:
        return _rejected(address, token, status)
    if token is None:
        return ProbeResult(True, f"{address} is reachable and accepts events; no token is configured")
    without = _ask(address, None, ca_file, timeout)
    if isinstance(without, int) and without in _UNAUTHORISED:
        return ProbeResult(True, f"{address} is reachable and accepts the token")
    return ProbeResult(None, f"{address} is reachable; whether it accepts the token shows only when an event is sent")


def _ask(address: Address, token: Token | None, ca_file: Path | None, timeout: float) -> int | ProbeResult:
    """Return the status with which a relay answers the head of a POST, or why there is none."""
    connection = (
        http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=tls.context_for(ca_file))
        if address.is_secure
        else http.client.HTTPConnection(address.host, address.port, timeout=timeout)
    )
    try:
        connection.connect()
        connection.putrequest("POST", address.target, skip_accept_encoding=True)
        headers = {"User-Agent": USER_AGENT, "Content-Type": "application/json", **authorization(address, token)}
        for name, value in {**headers, "Content-Length": str(_PROMISED_BYTES), "Expect": "100-continue"}.items():
            connection.putheader(name, value)
        connection.endheaders()
    except TimeoutError:
        return ProbeResult(False, f"{address}: cannot connect within {timeout:g} s")
    except OSError as error:
        problem = tls.describe(error, address, ca_file) or f"cannot connect: {error.strerror or type(error).__name__}"
        return ProbeResult(False, f"{address}: {problem}")
    else:
        return _read_status(connection, address)
    finally:
        connection.close()


def _read_status(connection: http.client.HTTPConnection, address: Address) -> int | ProbeResult:
    """Return the last status that comes before the body is sent.

    nginx sends a 100 and at once the status that rejects the request: only silence after a 100 is
    consent. http.client itself would read past a 100.
    """
    asked = time.monotonic()
    with connection.sock.makefile("rb") as answer:
        try:
            status = _status_line(answer)
        except TimeoutError:
            return ProbeResult(None, f"{address} is reachable, and does not answer before it has an event")
        if status == _CONTINUE:
            connection.sock.settimeout(max(_SILENCE_SECS, _SILENCE_ROUND_TRIPS * (time.monotonic() - asked)))
            with suppress(TimeoutError):
                http.client.parse_headers(answer)
                status = _status_line(answer)
    return ProbeResult(False, f"{address} closed the connection, or does not speak HTTP") if status is None else status


def _status_line(answer: BinaryIO) -> int | None:
    try:
        words = answer.readline(_LINE_BYTES).split()
    except TimeoutError:
        raise
    except OSError:
        return None
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else None


def _rejected(address: Address, token: Token | None, status: int) -> ProbeResult:
    if status in _UNAUTHORISED:
        reason = f"does not accept the token ({status})" if token else f"requires a token ({status}), and none is configured"
        return ProbeResult(False, f"{address} {reason}")
    if status == _EXPECTATION_FAILED:
        return ProbeResult(None, f"{address} is reachable, and does not answer before it has an event ({status})")
    if 300 <= status < 400:
        return ProbeResult(False, f"{address} answers {status}, a redirect, which is never followed; set url to where the relay is")
    return ProbeResult(False, f"{address} answers {status} to a POST")


def _probe_websocket(address: Address, token: Token | None, ca_file: Path | None, origin: str, timeout: float) -> ProbeResult:
    from arawn_cli.delivery.websocket import WebSocketClient

    result = WebSocketClient(address, token, ca_file, origin).send([], timeout)
    if isinstance(result, Delivered):
        return ProbeResult(True, f"{address} is reachable" + (" and accepts the token" if token else "; no token is configured"))
    return ProbeResult(False, f"{address}: {result.answer if isinstance(result, Refused) else result.reason}")
