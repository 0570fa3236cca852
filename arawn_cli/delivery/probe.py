"""Ask a relay whether it accepts the token, without publishing anything."""

from __future__ import annotations

import http.client
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.config.relay_url import Address
from arawn_cli.delivery import tls
from arawn_cli.delivery.credentials import Token, authorization
from arawn_cli.delivery.message import USER_AGENT, Delivered, Refused

_CONTINUE = 100
_UNAUTHORISED = (401, 403, 407)
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


def probe(address: Address, token: Token | None, ca_file: Path | None, origin: str, timeout: float) -> ProbeResult:
    """Check whether a relay can be reached and accepts the token; `timeout` is in seconds.

    An HTTP relay is asked whether it would accept a POST (`Expect: 100-continue`, RFC 9110,
    10.1.1), whose body then never comes; and again without the token, because only the difference
    shows that the token matters. A WebSocket connection is opened, authenticated and closed.

    Raises:
        ConfigurationError: the file of certificate authorities cannot be used.
    """
    if address.is_websocket:
        from arawn_cli.delivery.websocket import WebSocketClient

        result = WebSocketClient(address, token, ca_file, origin).send([], timeout)
        if isinstance(result, Delivered):
            return ProbeResult(True, f"{address} is reachable" + (" and accepts the token" if token else "; no token is configured"))
        return ProbeResult(False, f"{address}: {result.answer if isinstance(result, Refused) else result.reason}")
    try:
        status = _ask(address, token, ca_file, timeout)
        is_accepted = status == _CONTINUE or 200 <= status < 300
        without = _ask(address, None, ca_file, timeout) if token and is_accepted else None
    except TimeoutError:
        return ProbeResult(False, f"{address}: cannot connect within {timeout:g} s")
    except OSError as error:
        problem = tls.describe(error, address, ca_file) or f"cannot connect: {error.strerror or type(error).__name__}"
        return ProbeResult(False, f"{address}: {problem}")
    if is_accepted:
        if token is None:
            return ProbeResult(True, f"{address} is reachable and accepts events; no token is configured")
        if without in _UNAUTHORISED:
            return ProbeResult(True, f"{address} is reachable and accepts the token")
        return ProbeResult(None, f"{address} is reachable; whether it accepts the token shows only when an event is sent")
    if status in (_SILENT, _EXPECTATION_FAILED):
        number = f" ({status})" if status else ""
        return ProbeResult(None, f"{address} is reachable, and does not answer before it has an event{number}")
    if status == _NO_HTTP:
        return ProbeResult(False, f"{address} closed the connection, or does not speak HTTP")
    if status in _UNAUTHORISED:
        reason = f"does not accept the token ({status})" if token else f"requires a token ({status}), and none is configured"
        return ProbeResult(False, f"{address} {reason}")
    if 300 <= status < 400:
        return ProbeResult(False, f"{address} answers {status}, a redirect, which is never followed; set url to where the relay is")
    return ProbeResult(False, f"{address} answers {status} to a POST")


def _ask(address: Address, token: Token | None, ca_file: Path | None, timeout: float) -> int:
    """Return the last status with which a relay answers the head of a POST, before its body.

    nginx sends a 100 and at once the status that rejects the request: only silence after a 100 is
    consent. http.client itself would read past a 100.

    Raises:
        OSError: there is no connection; `TimeoutError` if there is none in time.
    """
    connection = (
        http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=tls.context_for(ca_file))
        if address.is_secure
        else http.client.HTTPConnection(address.host, address.port, timeout=timeout)
    )
    with closing(connection):
        connection.connect()
        connection.putrequest("POST", address.target, skip_accept_encoding=True)
        headers = {"User-Agent": USER_AGENT, "Content-Type": "application/json", **authorization(address, token)}
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
