"""Events as text frames of a WebSocket connection (RFC 6455), with Arawn's handshake when there is a token."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from ssl import SSLContext
from typing import cast

from websockets.datastructures import HeadersLike
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.frames import DATA_OPCODES, CloseCode, Frame
from websockets.http11 import USER_AGENT as LIBRARY_AGENT
from websockets.http11 import Response
from websockets.protocol import Event
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from arawn_cli.config.relay_url import Address
from arawn_cli.delivery import tls
from arawn_cli.delivery.credentials import Secrets, Token
from arawn_cli.delivery.http import USER_AGENT, authorization, judge, shown
from arawn_cli.delivery.message import Answer, Delivered, Parcel, Refused, Undelivered

_NORMAL = 1000


# Close codes with which a server turns down what it was sent: its kind, its text, by its policy, its size (RFC 6455, 7.4.1).
_TURNED_DOWN = frozenset({1003, 1007, 1008, 1009})


_ANSWER_BYTES = 65_536


_QUEUE = 16


# The library logs requests with all their headers, and so the token, for who turns its debugging on.
_silent = logging.getLogger("arawn_cli.delivery.websocket-library")


_silent.propagate = False


_silent.disabled = True


class _TurnedError(Exception):
    """The server answered the opening handshake with another status than 101."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class _RejectedError(Exception):
    """The server's answer to the token is no."""


class _Connection(ClientConnection):
    """A connection whose handshake is not repeated elsewhere, where the library would follow redirects.

    Once `heedless`, it passes over what the server sends: a subscriber's messages, or a flood of them, must
    neither fill the memory nor stand in the way of the closing handshake. That has until `until`, on the monotonic
    clock, where the library would begin to count anew.
    """

    heedless = False
    until = 0.0

    def close(self, code: CloseCode | int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """As the library's, within the time that is left."""
        self.close_timeout = max(self.until - time.monotonic(), 0.0)
        super().close(code, reason)

    def process_event(self, event: Event) -> None:
        """As the library's, without the frames that nobody reads."""
        if not (self.heedless and isinstance(event, Frame) and event.opcode in DATA_OPCODES):
            super().process_event(event)

    def handshake(
        self, additional_headers: HeadersLike | None = None, user_agent_header: str | None = LIBRARY_AGENT, timeout: float | None = None
    ) -> None:
        """As the library's, and a status other than 101 ends it."""
        try:
            super().handshake(additional_headers, user_agent_header, timeout)
        except InvalidStatus as error:
            raise _TurnedError(error.response) from error


class WebSocketRelay:
    """A relay that takes events as frames: a connection a batch, delivered once its closing handshake is done.

    Raises:
        ConfigurationError: the file of certificate authorities cannot be used.
    """

    batch = 100

    def __init__(self, address: Address, token: Token | None, ca_file: Path | None, origin: str) -> None:
        self._address = address
        self._token = token
        self._secrets = Secrets.of(address, token)
        self._ca_file = ca_file
        self._origin = Origin(origin) if origin else None
        self._context: SSLContext | None = tls.context_for(ca_file) if address.is_secure else None

    def attempt(self, parcels: Sequence[Parcel], timeout: float) -> Answer:
        """Sends each event as one frame; unless the connection closes cleanly, nobody knows which of them arrived."""
        until = time.monotonic() + timeout
        connection: _Connection | None = None
        authenticated = self._token is None
        try:
            connection = self._connect(timeout)
            connection.until = until
            with connection:
                if self._token is not None:
                    _authenticate(connection, self._token, until)
                authenticated = True
                _pass_over(connection)
                for parcel in parcels:
                    connection.send(parcel.body.decode("ascii"))
                connection.close()
                connection.wait_closed(max(until - time.monotonic(), 0.0))
        except _RejectedError as error:
            return Undelivered(
                f"the relay does not accept the token: {shown(str(error).encode('utf-8', 'backslashreplace'), self._secrets)}",
                hopeless=True,
            )
        except ConnectionClosed:
            pass  # how it closed is judged below, as for a close that nothing interrupted
        except (_TurnedError, WebSocketException, OSError) as error:
            return self._failure(error, timeout)
        return self._closing(connection, authenticated=authenticated)

    def close(self) -> None:
        """Nothing is kept open between two batches."""

    def _connect(self, timeout: float) -> _Connection:
        connection = connect(
            self._address.plain,
            ssl=self._context,
            origin=self._origin,
            compression=None,
            additional_headers=dict(authorization(self._address, None)),
            user_agent_header=USER_AGENT,
            proxy=None,
            open_timeout=timeout,
            close_timeout=timeout,
            ping_interval=None,
            max_size=_ANSWER_BYTES,
            max_queue=_QUEUE,
            logger=_silent,
            create_connection=_Connection,
        )
        return cast("_Connection", connection)

    def _closing(self, connection: ClientConnection | None, *, authenticated: bool) -> Answer:
        if connection is None:
            return Undelivered(f"{self._where} closed the connection")
        code, reason = connection.close_code, shown((connection.close_reason or "").encode(), self._secrets)
        if code == _NORMAL and not connection.protocol.close_rcvd_then_sent:
            return Delivered()
        if code in _TURNED_DOWN and not authenticated:
            return Undelivered(f"the relay does not accept the token: close {code} {reason}".rstrip(), hopeless=True)
        if code in _TURNED_DOWN:
            return Refused(f"close {code} {reason}".rstrip())
        return Undelivered(f"{self._where} closed the connection ({code}) before all was confirmed; it may have the events or not")

    def _failure(self, error: Exception, timeout: float) -> Undelivered:
        untrusted = tls.sentence(error, self._address, self._ca_file)
        if untrusted is not None:
            return Undelivered(untrusted, hopeless=True)
        if isinstance(error, _TurnedError):
            return self._turned(error.response)
        if isinstance(error, TimeoutError):
            return Undelivered(f"{self._where} did not answer within {timeout:g} s")  # and was sent none
        if isinstance(error, InvalidHandshake):
            return Undelivered(
                f"{self._where} is no WebSocket server: {shown(str(error).encode('utf-8', 'backslashreplace'), self._secrets)}"
            )
        words = error.strerror if isinstance(error, OSError) else None
        return Undelivered(f"{self._where} takes no connection: {words or type(error).__name__}")

    def _turned(self, response: Response) -> Undelivered:
        """A status instead of the upgrade concerns the relay, and no single event: all of them wait."""
        answer = judge(
            response.status_code, bytes(response.body[:_ANSWER_BYTES]), response.headers.get("Retry-After"), time.time(), self._secrets
        )
        if isinstance(answer, Undelivered):
            return answer
        said = answer.answer if isinstance(answer, Refused) else str(response.status_code)
        return Undelivered(f"the relay opens no WebSocket connection: {said}", hopeless=True)

    @property
    def _where(self) -> str:
        return f"{self._address.host} port {self._address.port}"


def _pass_over(connection: _Connection) -> None:
    """From here on nothing that the server sends is read; frames that wait already are let go, so that reading goes on."""
    connection.heedless = True
    with suppress(TimeoutError):
        while True:
            connection.recv(timeout=0)


def _authenticate(connection: ClientConnection, token: Token, until: float) -> None:
    """Says the token and waits for `auth_result`; what the server says of other things in between is passed over."""
    connection.send(json.dumps({"type": "auth", "token": token.value}))
    while True:
        message = connection.recv(timeout=max(until - time.monotonic(), 0.0))
        try:
            answer = json.loads(message)
        except (ValueError, RecursionError):
            continue
        if isinstance(answer, dict) and answer.get("type") == "auth_result":
            if answer.get("success") is not True:
                raise _RejectedError(answer.get("error") or "no reason given")
            return
