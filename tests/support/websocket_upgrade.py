"""The opening handshake of a WebSocket server that a test scripts."""

from __future__ import annotations

import socket

from websockets.http11 import Request
from websockets.server import ServerProtocol


def accept_upgrade(connection: socket.socket) -> ServerProtocol:
    """Read the request of a client, accept it, and return the state of the server."""
    server = ServerProtocol()
    server.receive_data(connection.recv(65_536))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    server.send_response(server.accept(request))
    connection.sendall(b"".join(server.data_to_send()))
    return server
