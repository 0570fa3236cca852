"""Servers that answer as no relay should, and clients for them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from arawn_cli.config import relay_url
from arawn_cli.delivery.connecting import Route
from arawn_cli.delivery.credentials import Token
from arawn_cli.delivery.http import HttpClient
from arawn_cli.delivery.message import OutgoingEvent
from arawn_cli.delivery.websocket import WebSocketClient

TOKEN = Token("tok-3nchan")
ONE = OutgoingEvent("event-1", "disk_pressure", "2026-01-01T00:00:00Z", "//host/arawn-cli", b'{"n":1}', "total", "warning")


@contextmanager
def running(serve_forever: Callable[[], None], shutdown: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        shutdown()
        thread.join()


@contextmanager
def answering(*chunks: bytes, pause: float = 0.0, heard: list[bytes] | None = None, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Accept one connection, answer a request with some bytes, and close it; yield the port."""
    ended = threading.Event()

    def talk() -> None:
        plain, _ = listener.accept()
        plain.settimeout(10)
        with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) if context else plain as connection:
            request = connection.recv(65_536)
            if heard is not None:
                heard.append(request)
            for chunk in chunks:
                connection.sendall(chunk)
                if ended.wait(pause):
                    return
            # A close with bytes that nobody read makes the kernel discard what is not sent yet.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            thread.join()


def sent(url: str, authority: Path | None = None, timeout: float = 2) -> object:
    """Return the result of one attempt."""
    address = relay_url.parse(url)
    relay = WebSocketClient(Route(address, authority), None, "") if address.is_websocket else HttpClient(Route(address, authority), None)
    try:
        return relay.send([ONE], timeout)
    finally:
        relay.close()


@contextmanager
def unreachable() -> Iterator[int]:
    """Yield a port whose queue of connections is full: the kernel ignores further ones."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.create_connection(listener.getsockname()):
        yield listener.getsockname()[1]
