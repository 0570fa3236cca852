"""From configuration and environment to a delivery: address, token, TLS, state directory."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from hashlib import sha256

from arawn_cli.config import Config, RelayTarget
from arawn_cli.courier import Pace
from arawn_cli.credentials import Token, token_for
from arawn_cli.delivery import Delivery, Terms
from arawn_cli.outbox import Outbox
from arawn_cli.parcels import Relay
from arawn_cli.state import State


def delivery_for(
    config: Config, target: RelayTarget, environment: Mapping[str, str], state: State, stopping: Callable[[], bool]
) -> Delivery | None:
    """The delivery of a run to a relay; None in a dry run, once all that could be wrong was looked at.

    Raises:
        ConfigurationError: token, certificate authorities or transport are not as they must be.
    """
    table = config.maintenance.relay
    token = token_for(target.address, target.token_file, environment, allow_insecure=table.allow_insecure)
    relay = _relay(target, token, table.origin)
    if config.dry_run:
        return None
    return Delivery(
        relay=relay,
        outbox=Outbox(state, table.outbox_max_events, _target(target), str(config.root)),
        terms=Terms(frozenset(table.events), table.timeout_secs, table.deadline_secs),
        pace=Pace(time.monotonic, time.sleep, random.random, stopping),
    )


def _target(target: RelayTarget) -> str:
    """Tells events for a relay of the command line from those for the configured one, which may move to another address."""
    if not target.from_flag:
        return ""
    return sha256(target.address.plain.encode()).hexdigest()


def _relay(target: RelayTarget, token: Token | None, origin: str) -> Relay:
    """The client that the address asks for; the other one is not imported."""
    if target.address.is_websocket:
        from arawn_cli.sinks.websocket import WebSocketRelay

        return WebSocketRelay(target.address, token, target.ca_file, origin)
    from arawn_cli.sinks.relay import HttpRelay

    return HttpRelay(target.address, token, target.ca_file, time.time)
