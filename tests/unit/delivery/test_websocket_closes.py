"""A WebSocket relay that closes, cuts, refuses or falls silent at each moment: what counts as
delivered."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Event
from websockets.server import ServerProtocol

from arawn_cli.config import relay_url
from arawn_cli.config.schema import Relay
from arawn_cli.delivery.connecting import Route
from arawn_cli.delivery.message import Delivered, Failed, OutgoingEvent, Refused, SendResult
from arawn_cli.delivery.outbox import Outbox
from arawn_cli.delivery.sending import Delivery, DeliveryStats
from arawn_cli.delivery.websocket import WebSocketClient
from arawn_cli.events import to_json
from arawn_cli.state import State
from tests.support.contrary_servers import ONE
from tests.support.simulated_relay import pressure, queued
from tests.support.websocket_upgrade import accept_upgrade

pytestmark = pytest.mark.usefixtures("told")

# When the relay does something else than it should: with its answer to the handshake, when it has
# the first event, when it is asked if it has read all, after it has said so, and as its answer to
# the close.
MOMENTS = ("before", "during", "after", "confirmed", "closing")
CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 3501, 4001, 4999)
REFUSING = {1003, 1007, 1008, 1009, 3000, 3501, 4001, 4999}
ERRORS = (b'{"type":"error","code":"parse_error","message":"unknown variant"}', b'{"error":{"code":102}}')
ACTIONS: tuple[int | str | bytes, ...] = (*CODES, *ERRORS, "cut", "silent")
CASES = list(itertools.product(MOMENTS, ACTIONS))


@dataclass
class Peer:
    """A server that does one thing at one moment. `accepted` is what it took and confirmed."""

    moment: str = ""
    action: int | str | bytes = 1000
    accepted: list[str] = field(default_factory=list)

    @contextmanager
    def listening(self) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
            thread.start()
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}/"
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        protocol, texts = ServerProtocol(max_size=None), list[str]()
        while data := connection.recv(65_536):
            protocol.receive_data(data)
            for event in protocol.events_received():
                if not self._answer(connection, protocol, event, texts):
                    while self.action == "silent" and connection.recv(65_536):
                        pass
                    return

    def _answer(self, connection: socket.socket, protocol: ServerProtocol, event: Event, texts: list[str]) -> bool:
        """Answer what was received; return whether to go on."""
        if isinstance(event, Request):
            protocol.send_response(protocol.accept(event))
            connection.sendall(b"".join(protocol.data_to_send()) + self._frame("before"))
            return not self._has_stopped("before")
        assert isinstance(event, Frame)
        match event.opcode:
            case Opcode.TEXT:
                texts.append(bytes(event.data).decode())
                connection.sendall(self._frame("during") if len(texts) == 1 else b"")
                return len(texts) > 1 or not self._has_stopped("during")
            case Opcode.PING:
                connection.sendall(self._frame("after"))
                if self._has_stopped("after"):
                    return False
                connection.sendall(Frame(Opcode.PONG, event.data).serialize(mask=False) + self._frame("confirmed"))
                return not self._has_stopped("confirmed")
            case Opcode.CLOSE:
                connection.sendall(self._frame("closing"))
                if not self._has_stopped("closing"):
                    connection.sendall(Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=False))
                if self.moment != "closing" or self.action == 1000:
                    self.accepted += texts
        return False

    def _frame(self, moment: str) -> bytes:
        if moment != self.moment or isinstance(self.action, str):
            return b""
        if isinstance(self.action, bytes):
            return Frame(Opcode.TEXT, self.action).serialize(mask=False)
        return Frame(Opcode.CLOSE, Close(self.action, "the reason").serialize()).serialize(mask=False)

    def _has_stopped(self, moment: str) -> bool:
        return moment == self.moment and not isinstance(self.action, bytes)


def expected(moment: str, action: int | str | bytes) -> type[SendResult]:
    if isinstance(action, bytes):
        return Refused
    if moment == "closing" and action == 1000:
        return Delivered
    return Refused if action in REFUSING and moment != "before" else Failed


class OneAttempt(WebSocketClient):
    """Does not try again in the same run, so that no test waits."""

    def send(self, events: Sequence[OutgoingEvent], timeout: float) -> SendResult:
        result = super().send(events, timeout)
        return replace(result, retryable=False) if isinstance(result, Failed) else result


def client(url: str) -> WebSocketClient:
    return OneAttempt(Route(relay_url.parse(url)), None, "")


def deliver(directory: Path, url: str, count: int = 0, timeout: float = 5) -> tuple[list[str], DeliveryStats]:
    """Raise some events and send all that are stored, as a run does; return the new ones."""
    state = State(directory, lambda: 0)
    run = Delivery(Outbox(state, 100), Relay(timeout_secs=timeout), lambda: client(url), lambda: False)
    raised = [pressure(number) for number in range(count)]
    for event in raised:
        run.store(event)
    stats = run.finish()
    state.close()
    return [to_json(event) for event in raised], stats


@pytest.mark.parametrize(("moment", "action"), CASES)
def test_only_what_a_relay_read_and_confirmed_is_delivered(moment: str, action: int | str | bytes) -> None:
    peer = Peer(moment, action)
    with peer.listening() as url:
        result = client(url).send([ONE, replace(ONE, event_id="event-2")], 0.3 if action == "silent" else 5)
    assert type(result) is expected(moment, action), result


@pytest.mark.parametrize(("moment", "action"), CASES)
def test_no_event_is_lost_or_counted_without_being_accepted(tmp_path: Path, moment: str, action: int | str | bytes) -> None:
    peer = Peer(moment, action)
    with peer.listening() as url:
        raised, stats = deliver(tmp_path, url, 3, 0.3 if action == "silent" else 5)
    assert len(queued(tmp_path)) == 3 - stats.delivered
    assert set(peer.accepted[: stats.delivered]) == set(raised[: stats.delivered])
    assert (stats.delivered == 3) is (expected(moment, action) is Delivered)
    healthy = Peer()
    with healthy.listening() as url:
        deliver(tmp_path, url)
    assert queued(tmp_path) == []
    assert [*peer.accepted[: stats.delivered], *healthy.accepted] == raised


@contextmanager
def cutting(port: int, upwards: int, downwards: int) -> Iterator[int]:
    """A proxy that passes on so many bytes to a server and from it, and then cuts both
    connections."""

    def forward(source: socket.socket, target: socket.socket, limit: int) -> None:
        with contextlib.suppress(OSError):
            while limit > 0 and (data := source.recv(min(limit, 65_536))):
                target.sendall(data)
                limit -= len(data)
            for connection in (source, target):
                connection.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                down, _ = listener.accept()
                with down, socket.create_connection(("127.0.0.1", port)) as up:
                    ways = [threading.Thread(target=forward, args=way, daemon=True) for way in ((down, up, upwards), (up, down, downwards))]
                    for way in ways:
                        way.start()
                    for way in ways:
                        way.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def check_a_cut(directory: Path, upwards: int, downwards: int) -> bool:
    """Send through a proxy that cuts; return whether everything was delivered in spite of it."""
    peer = Peer()
    with peer.listening() as url, cutting(int(url.rpartition(":")[2].strip("/")), upwards, downwards) as port:
        raised, stats = deliver(directory, f"ws://127.0.0.1:{port}/", 2)
        assert stats.delivered in (0, 2)
        assert len(queued(directory)) == 2 - stats.delivered
        assert stats.delivered <= len(peer.accepted)
        deliver(directory, url)
    assert queued(directory) == []
    assert list(dict.fromkeys(peer.accepted)) == raised
    return stats.delivered == 2


def check_cuts(directory: Path, cut: Callable[[int], tuple[int, int]], step: int) -> None:
    """Cut after more and more bytes, until the proxy never cuts."""
    for number in itertools.count():
        if check_a_cut(directory / str(number), *cut(number * step)):
            return
        assert number * step < 20_000, "nothing is ever delivered"


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.long)])
def test_a_proxy_that_cuts_what_the_relay_says_loses_nothing(tmp_path: Path, step: int) -> None:
    check_cuts(tmp_path, lambda count: (1_000_000, count), step)


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.long)])
def test_a_proxy_that_cuts_what_it_is_told_loses_nothing(tmp_path: Path, step: int) -> None:
    check_cuts(tmp_path, lambda count: (count, 1_000_000), step)


def test_a_relay_that_stops_reading_has_no_event() -> None:
    """Its buffers take a part of what is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def open_only() -> None:
            with listener.accept()[0] as connection:
                accept_upgrade(connection)
                ended.wait(10)

        thread = threading.Thread(target=open_only, daemon=True)
        thread.start()
        result = client(f"ws://127.0.0.1:{listener.getsockname()[1]}/").send([replace(ONE, body=b"x" * 1_000_000)] * 20, 0.5)
        ended.set()
        thread.join()
    assert isinstance(result, Failed)
    assert "did not confirm the events in time; it may have them" in result.reason
