"""Measure the speed and memory of sending a full outbox to nginx with nchan.

Run from the top of the repository: python -m benchmarks.outbox [--events 10000] [--websocket]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from arawn_cli.config import relay_url, schema
from arawn_cli.delivery.connecting import Route
from arawn_cli.delivery.http import HttpClient
from arawn_cli.delivery.message import OutgoingEvent
from arawn_cli.delivery.outbox import Outbox
from arawn_cli.delivery.sending import Delivery
from arawn_cli.delivery.websocket import WebSocketClient
from arawn_cli.state import State
from tests.support.relay_fixtures import build


def event(number: int) -> OutgoingEvent:
    """Return an event of the usual size."""
    body = json.dumps({"type": "disk_pressure", "id": f"event-{number}", "number": number, "padding": "x" * 350})
    return OutgoingEvent(
        f"event-{number}", "disk_pressure", "2026-01-01T00:00:00Z", "//host/arawn-cli", body.encode(), f"scope-{number}", "warning"
    )


def fill(directory: Path, events: int) -> None:
    """Store events, each in a transaction of its own, as a run does."""
    state = State(directory, time.time_ns)
    outbox = Outbox(state, events)
    began = time.monotonic()
    for number in range(events):
        outbox.append(event(number))
    print(f"stored   {events} events, {events / (time.monotonic() - began):.0f} a second")
    state.close()


def send(directory: Path, url: str, events: int) -> None:
    """Send all events, and print the rate and the growth of memory."""
    address = relay_url.parse(url)
    relay = WebSocketClient(Route(address), None, "") if address.is_websocket else HttpClient(Route(address), None)
    outbox = Outbox(State(directory, time.time_ns), events)
    delivery = Delivery(outbox, schema.Relay(deadline_secs=600), lambda: relay, lambda: False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    stats = delivery.finish()
    seconds = time.monotonic() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"sent     {stats.delivered} of {events} events, {stats.delivered / seconds:.0f} a second, memory grew by {grown:.1f} MiB")


def main() -> None:
    """Start the relay, fill an outbox and send it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--websocket", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        relay = build(Path(folder), BUFFER=str(options.events))
        relay.start()
        try:
            fill(Path(folder) / "state", options.events)
            url = relay.url("/wspub/outbox", "ws") if options.websocket else relay.url("/open/outbox")
            send(Path(folder) / "state", url, options.events)
            numbers = [json.loads(message)["number"] for message in relay.buffered("outbox", options.events)]
            print("arrived ", "in order, each once" if numbers == list(range(options.events)) else "NOT in order, or not each once")
        finally:
            relay.stop()


if __name__ == "__main__":
    main()
