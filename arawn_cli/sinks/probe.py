"""Asking a relay whether it is there and takes the token, with nothing published."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from arawn_cli.addresses import Address
from arawn_cli.credentials import Token
from arawn_cli.parcels import Delivered, Refused, Undelivered
from arawn_cli.sinks.relay import USER_AGENT, HttpRelay, authorization

_UNAUTHORISED = (401, 407)
_FORBIDDEN = 403
_MISSING = (404, 410)
_NOT_IMPLEMENTED = 501  # the method, which is no more than 405 says


@dataclass(frozen=True, slots=True)
class Probed:
    """What a relay's answer tells, in one sentence; `fit` is None where it does not tell whether events would be taken."""

    fit: bool | None
    text: str


def probe(address: Address, token: Token | None, ca_file: Path | None, origin: str, timeout: float) -> Probed:
    """Whether a relay is there and takes the token.

    An HTTP relay is sent OPTIONS, which publishes nothing, and once more without the token where only the comparison
    tells. A WebSocket connection is opened, authenticated and closed.

    Raises:
        ConfigurationError: the file of certificate authorities cannot be used.
    """
    if address.is_websocket:
        return _probe_websocket(address, token, ca_file, origin, timeout)
    relay = _HttpProbe(address, token, ca_file, time.time)
    try:
        return _judge(relay, address, token, timeout)
    finally:
        relay.close()


class _HttpProbe(HttpRelay):
    """The relay's own connection, TLS and words for what fails, with another method."""

    def status(self, token: Token | None, timeout: float) -> int | Probed:
        """The status of an answer to OPTIONS."""
        headers = {"User-Agent": USER_AGENT, **authorization(self._address, token)}
        try:
            response = self._pool.urlopen(
                "OPTIONS",
                self._address.target,
                headers=headers,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(total=timeout),
            )
        except HTTPError as error:
            return Probed(False, self._failure(error, timeout).reason)
        return response.status


def _judge(relay: _HttpProbe, address: Address, token: Token | None, timeout: float) -> Probed:
    status = relay.status(token, timeout)
    if isinstance(status, Probed):
        return status
    if status in _UNAUTHORISED:
        return Probed(
            False,
            f"{address} does not accept the token ({status})" if token else f"{address} wants a token ({status}), and none is configured",
        )
    if 300 <= status < 400:
        return Probed(False, f"{address} answers {status}, a redirect, which is never followed: set url to where the relay is")
    if status >= 500 and status != _NOT_IMPLEMENTED:
        return Probed(False, f"{address} answers {status}")
    if status in _MISSING:
        return Probed(None, f"{address} answers {status}: the path may be wrong")
    if token is None:
        return Probed(True, f"{address} is reachable ({status}); no token is configured")
    without = relay.status(None, timeout)
    if without in _UNAUTHORISED or (without == _FORBIDDEN and status != _FORBIDDEN):
        return Probed(True, f"{address} is reachable and accepts the token")
    if status == _FORBIDDEN:
        return Probed(
            None,
            f"{address} is reachable and answers {status}, with the token and without: it takes this method, or this machine, not at all",
        )
    return Probed(None, f"{address} is reachable ({status}); whether it accepts the token shows only when an event is sent")


def _probe_websocket(address: Address, token: Token | None, ca_file: Path | None, origin: str, timeout: float) -> Probed:
    from arawn_cli.sinks.websocket import WebSocketRelay

    answer = WebSocketRelay(address, token, ca_file, origin).attempt([], timeout)
    match answer:
        case Delivered():
            return Probed(True, f"{address} is reachable" + (" and accepts the token" if token else "; no token is configured"))
        case Refused():
            return Probed(False, f"{address}: {answer.answer}")
        case Undelivered():
            return Probed(False, f"{address}: {answer.reason}")
