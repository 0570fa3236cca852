"""Send events as text frames of a WebSocket connection (RFC 6455)."""

from __future__ import annotations

import json
import logging
import select
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.client import HTTPException

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Event, State
from websockets.typing import Origin
from websockets.uri import parse_uri

from arawn_cli.delivery.connecting import Route
from arawn_cli.delivery.credentials import Token, authorization
from arawn_cli.delivery.message import (
    USER_AGENT,
    Delivered,
    Failed,
    OutgoingEvent,
    Refused,
    SendResult,
    contains_error,
    excerpt,
    interpret_response,
)
from arawn_cli.units import span

_NORMAL = 1000

# Close codes that refuse a message: its kind, its text, by policy, its size (RFC 6455, 7.4.1).
_REFUSALS = frozenset({1003, 1007, 1008, 1009})

# Close codes from here on are those of applications (RFC 6455, 7.4.2), which close to refuse.
_APPLICATION = 3000

# A ping behind the events. The relay answers it once it has read them (RFC 6455, 5.5.2).
_PING = b"arawn-cli"

_ANSWER_BYTES = 65_536
_READ_BYTES = 65_536

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# With debugging on, the library logs requests with all headers, and so the token.
_silent = logging.getLogger("arawn_cli.delivery.websocket-library")
_silent.propagate = False
_silent.disabled = True


class WebSocketClient:
    """Send each batch over its own connection.

    It is delivered if the relay has read it, sends no error, and answers the close with code 1000.
    """

    batch_size = 100

    def __init__(self, route: Route, token: Token | None, origin: str) -> None:
        self._route = route
        self._address = route.address
        self._token = token
        self._secrets = route.secrets(token)
        self._origin = Origin(origin) if origin else None
        self._peer = route.server

    def send(self, events: Sequence[OutgoingEvent], timeout: float) -> SendResult:
        """Send each event as one frame; without events only connect, authenticate and close.

        Unless all are delivered, it is unknown which of them arrived.
        """
        end = time.monotonic() + timeout
        try:
            stream = self._route.connect(timeout, tunnel=True).sock
        except TimeoutError:
            return Failed(f"cannot connect to {self._route.peer} within {span(timeout)}")
        except (OSError, HTTPException) as error:
            return self._route.failure(error) or Failed(f"cannot connect to {self._route.peer}: {self._route.cause_of(error)}")
        protocol = ClientProtocol(parse_uri(self._address.plain), origin=self._origin, max_size=_ANSWER_BYTES, logger=_silent)
        with closing(stream):
            try:
                return self._exchange(_Connection(stream, protocol, end), events)
            except TimeoutError:
                question = " the token" if protocol.state is State.OPEN else ""
                return Failed(f"{self._peer} did not answer{question} within {span(timeout)}")

    def close(self) -> None:
        """Do nothing: no connection is open between two batches."""

    def _exchange(self, connection: _Connection, events: Sequence[OutgoingEvent]) -> SendResult:
        """Open the WebSocket connection, authenticate, send, and close.

        Raises:
            TimeoutError: the relay did not answer before it was sent an event.
        """
        protocol = connection.protocol
        request = protocol.connect()
        request.headers.update({"User-Agent": USER_AGENT, **authorization(self._address, None)})
        protocol.send_request(request)
        connection.wait_open()
        if protocol.handshake_exc is not None:
            return self._handshake_failure(protocol.handshake_exc, connection.error)
        if self._token is not None:
            failure = self._authenticate(connection, self._token)
            if failure is not None:
                return failure
        if protocol.state is not State.OPEN:
            return self._closed_early(protocol)
        return self._send_events(connection, events) if events else self._close(connection)

    def _send_events(self, connection: _Connection, events: Sequence[OutgoingEvent]) -> SendResult:
        """Send the events and a ping; when the ping is answered, close the connection."""
        protocol = connection.protocol
        for event in events:
            protocol.send_text(event.body)
        protocol.send_ping(_PING)
        is_read = False
        try:
            for opcode, data in connection.received():
                if opcode is not Opcode.PONG:
                    if contains_error(data):
                        return Refused(excerpt(data, self._secrets))
                elif data == _PING and protocol.state is State.OPEN:
                    is_read = True
                    protocol.send_close(_NORMAL)
        except TimeoutError:
            return Failed(f"{self._peer} did not confirm the events in time; it may have them")
        return self._interpret_close(protocol, is_read=is_read)

    def _close(self, connection: _Connection) -> SendResult:
        """Close a connection over which nothing was sent.

        Raises:
            TimeoutError: the relay does not answer.
        """
        connection.protocol.send_close(_NORMAL)
        for _ in connection.received():
            pass
        return Delivered() if _is_clean(connection.protocol) else self._closed_early(connection.protocol)

    def _authenticate(self, connection: _Connection, token: Token) -> SendResult | None:
        """Send the token and wait for Arawn's `auth_result`; return None if it is accepted."""
        protocol = connection.protocol
        protocol.send_text(json.dumps({"type": "auth", "token": token.value}).encode("ascii"))
        for _, data in connection.received():
            try:
                answer = json.loads(data)
            except (ValueError, RecursionError):
                continue
            if isinstance(answer, dict) and answer.get("type") == "auth_result":
                if answer.get("success") is True:
                    return None
                reason = excerpt(str(answer.get("error") or "no reason given"), self._secrets)
                return Failed(f"the relay does not accept the token: {reason}", retryable=False)
        closed = protocol.close_exc.rcvd
        if closed is not None and _is_refusal(closed.code):
            return Failed(f"the relay does not accept the token: {self._close_text(closed)}", retryable=False)
        return Failed(f"{self._peer} closed the connection before it accepted the token")

    def _handshake_failure(self, error: Exception, broken: OSError | None) -> Failed:
        if isinstance(error, InvalidStatus):
            # Another status than 101 concerns the relay, and no single event: all events wait.
            response = error.response
            body, retry_after = bytes(response.body[:_ANSWER_BYTES]), response.headers.get("Retry-After")
            result = interpret_response(response.status_code, body, retry_after, time.time(), self._secrets)
            if isinstance(result, Failed):
                return result
            answer = result.answer if isinstance(result, Refused) else str(response.status_code)
            return Failed(f"the relay does not open a WebSocket connection: {answer}", retryable=False)
        if broken is not None and (failed := self._route.failure(broken)) is not None:
            return failed
        if isinstance(error.__cause__, EOFError):
            return Failed(f"{self._peer} closed the connection")
        return Failed(f"{self._peer} is not a WebSocket server: {excerpt(str(error), self._secrets)}")

    def _closed_early(self, protocol: ClientProtocol) -> Failed:
        """Describe a connection that the relay closed before it was sent an event."""
        closed = protocol.close_exc.rcvd
        if closed is None:
            return Failed(f"{self._peer} closed the connection")
        reason = f"{self._peer} closed the connection before it was sent an event: {self._close_text(closed)}"
        return Failed(reason, retryable=not _is_refusal(closed.code))

    def _interpret_close(self, protocol: ClientProtocol, *, is_read: bool) -> SendResult:
        """Return the result of the events, by the close code and the answer to the ping.

        A close that the relay began counts as no answer: it may have read the events and not used
        them, as a program does that shuts down.
        """
        closed = protocol.close_exc.rcvd
        if is_read and _is_clean(protocol):
            return Delivered()
        if closed is not None and _is_refusal(closed.code):
            return Refused(self._close_text(closed))
        code = f" ({self._close_text(closed)})" if closed else ""
        return Failed(f"{self._peer} closed the connection before it confirmed the events{code}; it may have them")

    def _close_text(self, closed: Close) -> str:
        return f"close {closed.code} {excerpt(closed.reason, self._secrets)}".rstrip()


def _is_clean(protocol: ClientProtocol) -> bool:
    """Return whether the relay answered our close frame with code 1000."""
    closed = protocol.close_exc
    return closed.rcvd is not None and closed.rcvd.code == _NORMAL and not closed.rcvd_then_sent


def _is_refusal(code: int) -> bool:
    return code in _REFUSALS or code >= _APPLICATION


class _Connection:
    """Drive the library's protocol (which does no I/O) over a socket until a point in time.

    Data that the relay sends meanwhile, such as a subscriber's messages or a flood of them, is read
    and dropped, so that it neither fills the memory nor delays the closing handshake.
    """

    def __init__(self, stream: socket.socket, protocol: ClientProtocol, end: float) -> None:
        stream.setblocking(False)
        self.protocol = protocol
        self.error: OSError | None = None
        self._stream = stream
        self._end = end
        self._unsent = bytearray()
        self._early: list[Event] = []

    def step(self) -> list[Event]:
        """Write or read as much as is possible now, or else wait, and return the received events.

        A broken connection counts as closed by the relay; `error` is the reason.

        Raises:
            TimeoutError: nothing was possible until the end.
        """
        self._unsent += b"".join(self.protocol.data_to_send())
        while (left := self._end - time.monotonic()) > 0:
            written = self._write()
            data = self._read()
            if data:
                self.protocol.receive_data(data)
            elif data is not None:
                self.protocol.receive_eof()
            if data is not None or written:
                return self._events()
            poll = select.poll()
            poll.register(self._stream, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            poll.poll(left * 1000)
        raise TimeoutError

    def wait_open(self) -> None:
        """Wait until the handshake succeeds or fails.

        Raises:
            TimeoutError: the time is up.
        """
        while self.protocol.state is State.CONNECTING and self.protocol.handshake_exc is None:
            self._early = self.step()

    def received(self) -> Iterator[tuple[Opcode, bytes]]:
        """Yield the data of each message and each pong until the connection is closed.

        A message has the opcode of its last frame. Unsent data is written meanwhile.

        Raises:
            TimeoutError: the time is up.
        """
        message = bytearray()
        while self._early or self.protocol.state is not State.CLOSED:
            events, self._early = self._early or self.step(), []
            for event in events:
                if not isinstance(event, Frame):
                    continue
                if event.opcode is Opcode.PONG:
                    yield event.opcode, bytes(event.data)
                elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    message += event.data
                    if event.fin:
                        yield event.opcode, bytes(message)
                        message.clear()

    def _events(self) -> list[Event]:
        """Return the received events; nothing of interest follows a close frame."""
        events = self.protocol.events_received()
        if any(isinstance(event, Frame) and event.opcode is Opcode.CLOSE for event in events):
            self._unsent += b"".join(self.protocol.data_to_send())
            self._write()
            self.protocol.receive_eof()
        return events

    def _write(self) -> bool:
        if not self._unsent:
            return False
        try:
            del self._unsent[: self._stream.send(self._unsent)]
        except _WOULD_BLOCK:
            return False
        except OSError:
            self._unsent.clear()  # data that the relay sent before it closed can still be read
        return True

    def _read(self) -> bytes | None:
        """Return the received bytes: empty at the end of the connection, None before any come."""
        try:
            return self._stream.recv(_READ_BYTES)
        except _WOULD_BLOCK:
            return None
        except OSError as error:
            self.error = error
            return b""
