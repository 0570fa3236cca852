"""A real relay that restarts, freezes, refuses or cuts connections: no loss, no disorder."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from arawn_cli.config import relay_url
from arawn_cli.config.schema import Relay
from arawn_cli.delivery.connecting import Route
from arawn_cli.delivery.http import HttpClient
from arawn_cli.delivery.message import Delivered
from arawn_cli.delivery.outbox import Outbox
from arawn_cli.delivery.sending import Delivery, DeliveryStats
from arawn_cli.delivery.websocket import WebSocketClient
from arawn_cli.events import to_json
from arawn_cli.state import State
from tests.support.contrary_servers import ONE, TOKEN
from tests.support.relay_fixtures import Nchan, needs_nchan
from tests.support.simulated_relay import pressure, queued

pytest_plugins = ("tests.support.relay_fixtures",)
pytestmark = [needs_nchan, pytest.mark.usefixtures("told")]


class Runs:
    """Runs that share an outbox; every event that they raise."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.raised: list[str] = []

    def __call__(self, url: str, count: int, *, timeout: float = 1, deadline: float = 10, padding: int = 0) -> DeliveryStats:
        address = relay_url.parse(url)
        relay = WebSocketClient(Route(address), None, "") if address.is_websocket else HttpClient(Route(address), TOKEN)
        state = State(self.directory, time.time_ns)
        settings = Relay(timeout_secs=timeout, deadline_secs=deadline)
        delivery = Delivery(Outbox(state, 1000), settings, lambda: relay, lambda: False)
        for _ in range(count):
            event = replace(pressure(len(self.raised)), workstream_name="x" * padding)
            self.raised.append(to_json(event))
            delivery.store(event)
        try:
            return delivery.finish()
        finally:
            state.close()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "state")


def first_arrivals(messages: list[str]) -> list[str]:
    return list(dict.fromkeys(messages))


def everything(relay: Nchan, channel: str) -> list[str]:
    marker = HttpClient(Route(relay_url.parse(relay.url(f"/open/{channel}"))), None)
    assert marker.send([replace(ONE, body=b"the end")], 5) == Delivered()
    marker.close()
    return relay.everything(channel, "the end")


@pytest.mark.parametrize(("path", "scheme"), [("/pub/restart", "http"), ("/wspub/restart", "ws")])
def test_a_restart_in_mid_stream_loses_nothing_and_keeps_the_order(runs: Runs, nchan: Nchan, path: str, scheme: str) -> None:
    """A subscriber listens before and after the restart, which clears the relay's buffer."""
    first: list[str] = []
    started = threading.Event()

    def listen() -> None:
        with nchan.subscriber("restart") as connection:
            started.set()
            try:
                while True:
                    first.append(str(connection.recv(timeout=10)))
            except Exception:  # noqa: S110 - the relay goes away, which is the point
                pass

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    started.wait(10)
    sender = threading.Thread(target=runs, args=(nchan.url(path, scheme), 400), daemon=True)
    sender.start()
    while len(first) < 20 and sender.is_alive():
        time.sleep(0.001)
    nchan.stop()
    listener.join(10)
    nchan.start()
    sender.join(20)
    runs(nchan.url(path, scheme), 1)
    assert queued(runs.directory) == []
    # Events that the relay accepted and did not pass on before it stopped are missing in between.
    arrived = first_arrivals(first + everything(nchan, "restart"))
    places = [runs.raised.index(message) for message in arrived]
    assert places == sorted(places)
    assert runs.raised[-1] in arrived
    if scheme == "http":
        ids = [json.loads(event)["id"] for event in runs.raised]
        # The relay's log has what it accepted, except what it passed on and did not log in time.
        requests = [json.loads(line) for line in (nchan.directory / "headers.log").read_text().splitlines()]
        taken = dict.fromkeys(request["id"] for request in requests if request["status"] in (201, 202))
        passed_on = {json.loads(message)["id"] for message in first}
        assert list(taken) == [event for event in ids if event in taken]
        assert set(ids) == taken.keys() | passed_on


def test_a_frozen_relay_gives_duplicates_with_the_same_id_at_most(runs: Runs, nchan: Nchan) -> None:
    url = nchan.url("/pub/frozen")
    runs(url, 2)
    with nchan.frozen():
        assert runs(url, 2, timeout=0.3, deadline=1.2).lost == 0
        assert len(queued(runs.directory)) == 2
    runs(url, 1)
    messages = everything(nchan, "frozen")
    assert first_arrivals(messages) == runs.raised
    repeated = {json.loads(message)["id"] for message in messages if messages.count(message) > 1}
    assert repeated <= {"event-2"}


def test_an_overloaded_relay_is_left_alone_for_as_long_as_it_asks(
    runs: Runs, shared_nchan: Nchan, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    runs(shared_nchan.url("/fail/503"), 1, deadline=2.5)
    assert time.monotonic() - began > 1
    assert "503 come back" in caplog.text
    runs(shared_nchan.url("/pub/overload"), 1)
    assert everything(shared_nchan, "overload") == runs.raised


def test_one_event_a_second_is_delivered_as_far_as_the_deadline_goes(runs: Runs, nchan: Nchan) -> None:
    assert runs(nchan.url("/slow/slow"), 5, timeout=5, deadline=2.4).delivered in (2, 3)
    runs(nchan.url("/pub/slow"), 1)
    assert first_arrivals(everything(nchan, "slow")) == runs.raised


def test_an_event_that_is_too_large_blocks_none_behind_it(runs: Runs, shared_nchan: Nchan, caplog: pytest.LogCaptureFixture) -> None:
    runs(shared_nchan.url("/small/large"), 1)
    runs(shared_nchan.url("/small/large"), 1, padding=2000)
    stats = runs(shared_nchan.url("/small/large"), 1)
    assert "413" in caplog.text
    assert stats.lost == 0
    assert queued(runs.directory) == ["event-1"]
    assert everything(shared_nchan, "large") == [runs.raised[0], runs.raised[2]]


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_cut_connections_keep_events(runs: Runs, shared_nchan: Nchan, scheme: str) -> None:
    assert runs(shared_nchan.url("/drop", scheme), 3, deadline=0.6).lost == 0
    channel = f"cut-{scheme}"
    runs(shared_nchan.url(f"/pub/{channel}"), 1)
    assert everything(shared_nchan, channel) == runs.raised


def test_two_runs_at_once_send_no_event_twice(runs: Runs, shared_nchan: Nchan) -> None:
    runs("http://127.0.0.1:1/", 100, deadline=0.1)
    url = shared_nchan.url("/pub/twice")
    threads = [threading.Thread(target=runs, args=(url, 0), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert everything(shared_nchan, "twice") == runs.raised
