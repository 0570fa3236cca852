"""How fast a full outbox drains against nginx with nchan on the loopback, and in how much memory.

Run from the top of the repository: python -m benchmarks.drain [--events 10000] [--websocket]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from arawn_cli.config import relay_url
from arawn_cli.delivery.http import HttpRelay
from arawn_cli.delivery.message import Parcel
from arawn_cli.delivery.outbox import Outbox
from arawn_cli.delivery.sending import Delivery, Pace, Terms
from arawn_cli.delivery.websocket import WebSocketRelay
from arawn_cli.state import State
from tests.support.relay_fixtures import build


def parcel(number: int) -> Parcel:
    """An event of the usual size."""
    body = json.dumps({"type": "disk_pressure", "id": f"event-{number}", "number": number, "padding": "x" * 350})
    return Parcel(
        f"event-{number}", "disk_pressure", "2026-01-01T00:00:00Z", "//host/arawn-cli", body.encode(), f"scope-{number}", "warning"
    )


def fill(directory: Path, events: int) -> None:
    """Stores events, each in a transaction of its own, as a run does."""
    state = State(directory, time.time_ns)
    outbox = Outbox(state, events)
    began = time.monotonic()
    for number in range(events):
        outbox.add(parcel(number))
    print(f"stored   {events} events, {events / (time.monotonic() - began):.0f} a second")
    state.close()


def drain(directory: Path, url: str, events: int) -> None:
    """Delivers all of it, and prints the pace and what memory grew by."""
    address = relay_url.parse(url)
    relay = WebSocketRelay(address, None, None, "") if address.is_websocket else HttpRelay(address, None, None, time.time)
    pace = Pace(time.monotonic, time.sleep, random.random, lambda: False)
    outbox = Outbox(State(directory, time.time_ns), events)
    delivery = Delivery(relay, outbox, Terms(("disk_pressure",), 5, 600), pace)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    tally = delivery.finish()
    seconds = time.monotonic() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"drained  {tally.delivered} of {events} events, {tally.delivered / seconds:.0f} a second, memory grew by {grown:.1f} MiB")


def main() -> None:
    """Starts the relay, fills an outbox and drains it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--websocket", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        relay = build(Path(folder), BUFFER=str(options.events))
        relay.start()
        try:
            fill(Path(folder) / "state", options.events)
            url = relay.url("/wspub/drain", "ws") if options.websocket else relay.url("/open/drain")
            drain(Path(folder) / "state", url, options.events)
            numbers = [json.loads(message)["number"] for message in relay.buffered("drain", options.events)]
            print("arrived ", "in order, each once" if numbers == list(range(options.events)) else "NOT in order, or not each once")
        finally:
            relay.stop()


if __name__ == "__main__":
    main()
