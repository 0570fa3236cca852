"""Store the events of a run, and send them when it ends."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from arawn_cli.config.loader import Config, RelayTarget
from arawn_cli.config.schema import Maintenance, Relay
from arawn_cli.context import EventOutbox
from arawn_cli.delivery.credentials import Token, token_for
from arawn_cli.delivery.message import Delivered, Failed, OutgoingEvent, Refused, RelayClient, encode_event
from arawn_cli.delivery.outbox import Outbox, QueuedEvent
from arawn_cli.delivery.retry import RetryClient, Timing
from arawn_cli.errors import ConfigurationError, StateUnavailableError
from arawn_cli.events import Event
from arawn_cli.problems import STATE, Problem, persistent
from arawn_cli.state import State, check_owner, exclusive_lock
from arawn_cli.units import count

log = logging.getLogger(__name__)

_FULL = persistent("outbox full", shared=True, ended="the outbox is no longer full")

_LOCK_POLL_SECS = 0.05

# After this many events in a row that were refused again, a run skips the other refused ones.
REFUSED_TRIES = 100

_PAGE = 200

# Delivered events of a long queue are removed in groups of this size; the run after a killed one
# repeats at most one group.
REMOVE_GROUP = 20


@dataclass(slots=True)
class DeliveryStats:
    """Numbers of delivered, refused and lost events, and of those dropped from a full outbox."""

    delivered: int = 0
    refused: int = 0
    dropped: int = 0
    lost: int = 0


@dataclass(slots=True)
class Delivery(EventOutbox):
    """Store the events of one run, and send them when it ends.

    Once an event could not be stored, all later ones are held in an outbox in memory: the order in
    which they were raised is kept.

    Attributes:
        settings: the types of events that are sent, and the time limits.
        make_client: makes the relay's client; called only if there is an event to send.
        stopping: whether a signal asked the run to end.
        name, address: of the relay or other target, as the log names them.
        _in_memory: the outbox in memory.
        _raised: the ids of the events of this run.
        _is_writable: whether the state file can be changed; otherwise sent events stay in it.
        _refused_again: events in a row that were refused before and were refused again.
        _last_answer: the answer to the last refused event.
    """

    outbox: Outbox
    settings: Relay
    make_client: Callable[[], RelayClient]
    stopping: Callable[[], bool]
    timing: Timing = field(default_factory=Timing)
    name: str = "the relay"
    address: str = ""
    stats: DeliveryStats = field(default_factory=DeliveryStats)
    _in_memory: Outbox | None = None
    _raised: set[str] = field(default_factory=set)
    _is_writable: bool = True
    _refused_again: int = 0
    _last_answer: str = ""

    def store(self, event: Event) -> None:
        """Store an event of a configured type, in memory if the state file cannot be written."""
        if event.type in self.settings.events:
            self.store_encoded(encode_event(event))

    def store_encoded(self, outgoing: OutgoingEvent) -> None:
        """Store an encoded event, in memory if the state file cannot be written."""
        self._raised.add(outgoing.event_id)
        if self._in_memory is None:
            try:
                self._count_dropped(self.outbox.append(outgoing))
                return
            except StateUnavailableError as error:
                self._in_memory = self._memory_outbox(error)
        self._count_dropped(self._in_memory.append(outgoing))

    def add(self, connection: sqlite3.Connection, events: Sequence[Event]) -> None:
        """Store the events of configured types in a transaction of the state file.

        Raises:
            StateUnavailableError: earlier events are in memory, and must not be overtaken.
        """
        self.add_encoded(connection, [encode_event(event) for event in events if event.type in self.settings.events])

    def add_encoded(self, connection: sqlite3.Connection, outgoing: Sequence[OutgoingEvent]) -> None:
        """Store encoded events as `add`.

        Raises:
            StateUnavailableError: as `add`.
        """
        if self._in_memory is not None:
            raise StateUnavailableError("earlier events of this run could not be stored")
        self._raised.update(event.event_id for event in outgoing)
        self.outbox.add(connection, outgoing)

    def finish(self) -> DeliveryStats:
        """Send the stored events, within the deadline, and return the result."""
        reason: str | None = None
        try:
            reason = self._send()
        finally:
            self._store_rest(reason)
        if self.stats.delivered or self.stats.refused:
            refused = f", {self.stats.refused} refused" if self.stats.refused else ""
            log.info("%s delivered to %s%s", count(self.stats.delivered, self.outbox.noun), self.name, refused)
        self._log_queued(reason)
        if self.stats.dropped:
            text = "%s dropped: the outbox is full (outbox_max_events = %d)"
            log.error(text, count(self.stats.dropped, self.outbox.noun), self.outbox.limit, extra=_FULL)
        return self.stats

    def _send(self) -> str | None:
        """Send the stored events, then those in memory; return why sending ended early, or None."""
        end = self.timing.monotonic() + self.settings.deadline_secs
        stored = self._has_stored()
        unstored = self._in_memory is not None and self._in_memory.next(0, 1)
        if not (stored or unstored):
            return None
        try:
            client = RetryClient(self.make_client(), self.settings.timeout_secs, end, self.stopping, self.timing)
        except ConfigurationError as error:
            return str(error)
        try:
            reason = self._send_stored(client) if stored else None
            if reason is None and self._in_memory is not None:
                reason = self._send_all(self._in_memory, client)
            return reason
        finally:
            client.client.close()

    def _has_stored(self) -> bool:
        """Return whether there are stored events that can be sent."""
        try:
            if self._in_memory is None:
                self.outbox.state.open()  # sets a damaged file aside
        except StateUnavailableError as error:
            self._in_memory = self._memory_outbox(error)
        try:
            if not self.outbox.next(0, 1):
                return False
            check_owner(self.outbox.state.directory)
        except StateUnavailableError as error:
            log.warning("%s: stored events are sent by the next run", error, extra=STATE)
            return False
        try:
            self.outbox.state.checkpoint()
        except StateUnavailableError as error:
            log.warning("%s: stored events may be lost in a power failure", error, extra=STATE)
        return True

    def _send_stored(self, client: RetryClient) -> str | None:
        """Send the stored events, after another run that is sending them."""
        try:
            while True:
                with exclusive_lock(self.outbox.state.directory) as locked:
                    if locked:
                        return self._send_all(self.outbox, client)
                if client.stop_reason() is not None:
                    return "another run is sending them"
                self.timing.sleep(_LOCK_POLL_SECS)
        except StateUnavailableError as error:
            log.warning("%s: stored events are sent by the next run", error, extra=STATE)
            return None

    def _send_all(self, outbox: Outbox, client: RetryClient) -> str | None:
        """Send the events of an outbox until each was tried; return None, or why sending ended.

        Raises:
            StateUnavailableError: the outbox cannot be read.
        """
        after = 0
        while page := outbox.next(after, _PAGE):
            after = page[-1].sequence
            group = REMOVE_GROUP if len(page) == _PAGE else 1
            delivered: list[QueuedEvent] = []
            try:
                for batch in _batches(page, client.client.batch_size):
                    if batch[0].answer is not None and self._refused_again >= REFUSED_TRIES:
                        continue
                    if (reason := self._send_batch(outbox, client, batch, delivered)) is not None:
                        return reason
                    if len(delivered) >= group:
                        self._remove(outbox, delivered)
            finally:
                self._remove(outbox, delivered)
        return None

    def _send_batch(self, outbox: Outbox, client: RetryClient, batch: Sequence[QueuedEvent], delivered: list[QueuedEvent]) -> str | None:
        """Send a batch, and add it to `delivered`; return why sending must end, or None."""
        if (reason := client.stop_reason()) is not None:
            return reason
        match client.send([queued.event for queued in batch]):
            case Delivered():
                delivered += batch
                self.stats.delivered += len(batch)
                self._refused_again = 0
            case Failed(reason):
                return reason
            case Refused(answer) if len(batch) == 1:
                self._record_refusal(outbox, batch[0], answer, client.timing.wall())
            case Refused():
                # Find the refused one. The relay may get those before it twice, with the same ids.
                each = (self._send_batch(outbox, client, [queued], delivered) for queued in batch)
                return next((reason for reason in each if reason is not None), None)
        return None

    def _record_refusal(self, outbox: Outbox, queued: QueuedEvent, answer: str, now: int) -> None:
        refused, is_parked = queued.refused(answer, now)
        is_recorded = self._write(outbox, lambda: outbox.record_refusal(refused, parked=is_parked), "refusals are not counted")
        self.stats.refused += 1
        self._refused_again += queued.answer is not None
        # With a wrong address every event gets the same answer: log it once per run.
        level = logging.DEBUG if answer in (queued.answer, self._last_answer) else logging.WARNING
        self._last_answer = answer
        log.log(level, "%s refused %s %s: %s", self.name, outbox.noun, queued.event, answer, extra=self._problem(is_reached=True))
        if is_parked and is_recorded:
            log.warning(
                "%s has refused %s %s %s, and is not sent it again: %s; arawn-cli doctor lists it",
                self.name,
                outbox.noun,
                queued.event,
                count(refused.refusals, "time"),
                answer,
                extra=persistent(f"parked {outbox.noun}s for {self.name}", shared=True, ended=""),
            )

    def _remove(self, outbox: Outbox, delivered: list[QueuedEvent]) -> None:
        """Remove delivered events from an outbox and from the list."""
        if delivered:
            self._write(outbox, lambda: outbox.remove(delivered), "the next run sends delivered events again, with the same ids")
            delivered.clear()

    def _write(self, outbox: Outbox, change: Callable[[], None], consequence: str) -> bool:
        """Change an outbox, and return whether it worked; after one failure do not try again."""
        if outbox is self.outbox and not self._is_writable:
            return False
        try:
            change()
        except StateUnavailableError as error:
            self._is_writable = False
            log.warning("%s: %s", error, consequence, extra=STATE)
            return False
        return True

    def _memory_outbox(self, error: StateUnavailableError) -> Outbox:
        log.warning("%s: events are sent without being stored first", error, extra=STATE)
        return Outbox(State.in_memory(), self.outbox.limit, self.outbox.target, self.outbox.root)

    def _store_rest(self, reason: str | None) -> None:
        """Store the events that are left in memory: a cleanup may have made space for them.

        `reason` says why sending ended early.
        """
        rest = self._in_memory.next(0, -1) if self._in_memory is not None else []
        for number, queued in enumerate(rest):
            try:
                self._count_dropped(self.outbox.append(queued.event, queued.answer))
            except StateUnavailableError as error:
                self.stats.lost += len(rest) - number
                for lost in rest[number:]:
                    why = f"{self.name} refused it: {lost.answer}" if lost.answer else reason or f"{self.name} did not confirm it"
                    log.error("lost %s %s, neither delivered nor stored: %s; %s", self.outbox.noun, lost.event, why, error)
                return

    def _count_dropped(self, dropped: Sequence[OutgoingEvent]) -> None:
        """Count dropped events; only one of this run is lost, earlier ones were tried before."""
        for event in dropped:
            log.warning("the outbox is full (%d %ss): dropped %s", self.outbox.limit, self.outbox.noun, event, extra=_FULL)
        self.stats.dropped += len(dropped)
        self.stats.lost += sum(event.event_id in self._raised for event in dropped)

    def _log_queued(self, reason: str | None) -> None:
        """Cut the outbox down to its limit, and log the number of events left in it."""
        try:
            if self._in_memory is None:
                self._count_dropped(self.outbox.trim())
            (number, number_refused), first = self.outbox.counts(), self.outbox.next(0, 1)
        except StateUnavailableError as error:
            log.debug("%s", error)  # logged as a warning before
            return
        if not first:
            return
        refused = f", {number_refused} of them refused by {self.name}" if number_refused else ""
        cause = reason or first[0].answer
        log.warning(
            "%s in the outbox%s%s%s; the first is %s",
            count(number, self.outbox.noun),
            f" for {self.name}" if self.outbox.is_notify else "",
            refused,
            f": {cause}" if cause else "",
            first[0].event,
            extra=self._problem(is_reached=reason is None),
        )

    def _problem(self, *, is_reached: bool) -> dict[str, Problem]:
        """Return the log `extra` of a target with queued events, which is one problem."""
        ended = (
            f"no refused event waits for {self.name} any more"
            if is_reached
            else f"{self.name} is reachable again: no event is left in the outbox"
        )
        return persistent(f"events for {self.name}", shared=True, ended=ended, about=self.address)


def _batches(page: Sequence[QueuedEvent], size: int) -> list[list[QueuedEvent]]:
    """Group events into batches; one that was refused before goes alone."""
    batches: list[list[QueuedEvent]] = []
    for queued in page:
        last = batches[-1] if batches else []
        if queued.answer is None and 0 < len(last) < size and last[-1].answer is None:
            last.append(queued)
        else:
            batches.append([queued])
    return batches


def delivery_for(
    config: Config, target: RelayTarget, environment: Mapping[str, str], state: State, stopping: Callable[[], bool]
) -> Delivery | None:
    """Return the delivery of a run to a relay, or None in a dry run.

    Token and certificate authorities are checked here, before the run does anything. The client is
    imported and made when there is an event to send.

    Raises:
        ConfigurationError: the token, the certificate authorities or the transport are unusable.
    """
    table = config.maintenance.relay
    token = token_for(target.address, target.token_file, environment, allow_insecure=table.allow_insecure)
    if target.ca_file is not None and target.address.is_secure:
        from arawn_cli.delivery.connecting import context_for

        context_for(target.ca_file)
    if config.dry_run:
        return None
    return Delivery(
        outbox=Outbox(state, table.outbox_max_events, _outbox_target(target), str(config.root)),
        settings=table,
        make_client=lambda: _make_client(target, token, config.maintenance),
        stopping=stopping,
        address=str(target.address),
    )


def _outbox_target(target: RelayTarget) -> str:
    """Return the key of a relay in the outbox, empty for the configured one, which may move."""
    return sha256(target.address.plain.encode()).hexdigest() if target.from_flag else ""


def _make_client(target: RelayTarget, token: Token | None, maintenance: Maintenance) -> RelayClient:
    """Make the client for the address; the other one is not imported.

    Raises:
        ConfigurationError: the proxy cannot be used.
    """
    from arawn_cli.delivery.connecting import route_to

    route = route_to(target.address, target.ca_file, use_proxy=maintenance.use_proxy)
    if target.address.is_websocket:
        from arawn_cli.delivery.websocket import WebSocketClient

        return WebSocketClient(route, token, maintenance.relay.origin)
    from arawn_cli.delivery.http import HttpClient

    return HttpClient(route, token)
