"""Store the events of a run, and send them when it ends."""

from __future__ import annotations

import _thread
import logging
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from queue import Empty, SimpleQueue

from arawn_cli.config.loader import Config, RelayTarget
from arawn_cli.config.schema import Maintenance, Relay
from arawn_cli.context import EventOutbox
from arawn_cli.delivery.credentials import Token, token_for
from arawn_cli.delivery.message import Delivered, Failed, OutgoingEvent, RelayClient, SendResult, encode_event
from arawn_cli.delivery.outbox import Outbox, QueuedEvent
from arawn_cli.errors import ConfigurationError, StateUnavailableError
from arawn_cli.events import Event
from arawn_cli.problems import STATE, Problem, persistent
from arawn_cli.state import State, check_owner, exclusive_lock
from arawn_cli.units import count, span

log = logging.getLogger(__name__)

FIRST_PAUSE_SECS = 0.25
LONGEST_PAUSE_SECS = 8.0

_FULL = persistent("outbox full", shared=True, ended="the outbox is no longer full")

# A client keeps to its timeout; an attempt that does not is abandoned this much later.
GRACE_SECS = 0.1

# After a signal an attempt may take this much longer: it may show that the events arrived.
_AFTER_SIGNAL_SECS = 0.5

# How often a wait looks for a signal. A sleep continues after one (PEP 475).
_POLL_SECS = 0.1

_LOCK_POLL_SECS = 0.05

# After this many events in a row that were refused again, a run skips the other refused ones.
REFUSED_TRIES = 100

_PAGE = 200

# Delivered events of a long queue are removed in groups of this size; the run after a killed one
# repeats at most one group.
REMOVE_GROUP = 20


def _unreachable(target: str, address: str) -> dict[str, Problem]:
    """Return the log `extra` of a target with queued events: one problem with `_refusing`."""
    ended = f"{target} is reachable again: no event is left in the outbox"
    return persistent(f"events for {target}", shared=True, ended=ended, about=address)


def _refusing(target: str, address: str) -> dict[str, Problem]:
    return persistent(f"events for {target}", shared=True, ended=f"no refused event waits for {target} any more", about=address)


@dataclass(frozen=True, slots=True)
class Timing:
    """Time and chance: `monotonic`, `sleep` and `time_ns` of `time`, `random` of `random`."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    wall: Callable[[], int] = time.time_ns


@dataclass(frozen=True, slots=True)
class RetryClient:
    """Wrap a relay client: send again with growing pauses, until a point in time or a signal.

    urllib3's own retries know neither a deadline for several requests nor signals.

    Attributes:
        timeout: seconds of one attempt.
        end: when all attempts end, on the monotonic clock.
        stopping: whether a signal asked the run to end.
    """

    client: RelayClient
    timeout: float
    end: float
    stopping: Callable[[], bool]
    timing: Timing = Timing()

    def stop_reason(self) -> str | None:
        """Return why no further attempt is made, or None."""
        if self.stopping():
            return "interrupted"
        return "no time was left" if self.timing.monotonic() >= self.end else None

    def send(self, events: Sequence[OutgoingEvent]) -> SendResult:
        """Send all events in their order.

        Return `Failed` if the time is up, or if no attempt in this run could succeed.
        """
        failed: Failed | None = None
        longest = FIRST_PAUSE_SECS
        while (reason := self.stop_reason()) is None:
            result = self._attempt(events, min(self.timeout, self.end - self.timing.monotonic()))
            if not isinstance(result, Failed) or not result.retryable:
                return result
            failed = result
            # Up to half shorter at random, so that many machines do not retry at the same moment.
            pause = max(longest * (1 - self.timing.random() / 2), result.retry_after or 0.0)
            longest = min(longest * 2, LONGEST_PAUSE_SECS)
            if self.timing.monotonic() + pause >= self.end:
                return result
            log.debug("%s; next attempt in %.1f s", result.reason, pause)
            self._sleep(pause)
        return Failed(f"{reason}; {failed.reason}" if failed else reason)

    def _attempt(self, events: Sequence[OutgoingEvent], seconds: float) -> SendResult:
        """Try once, in a thread that is abandoned if it takes too long.

        No socket timeout limits the resolution of a name, or an answer that comes one byte at a
        time. An abandoned thread touches only the client, and ends with the process.
        """
        results: SimpleQueue[SendResult] = SimpleQueue()

        def run() -> None:
            try:
                results.put(self.client.send(events, seconds))
            except Exception as error:  # whatever a relay answers, it must not end the run
                log.debug("traceback", exc_info=True)
                results.put(Failed(f"the relay's answer cannot be understood: {type(error).__name__}"))

        try:
            # Thread.start() would wait for ever for a thread that has no memory to begin.
            _thread.start_new_thread(run, ())
        except RuntimeError as error:  # TasksMax= of systemd, RLIMIT_NPROC
            return Failed(str(error))
        end = time.monotonic() + seconds + GRACE_SECS
        signalled = False
        while (left := end - time.monotonic()) > 0:
            if not signalled and self.stopping():
                signalled, end = True, min(end, time.monotonic() + _AFTER_SIGNAL_SECS)
                continue
            try:
                return results.get(timeout=min(left, _POLL_SECS))
            except Empty:
                continue
        return Failed(f"no result within {span(seconds)}; the event may have arrived")

    def _sleep(self, seconds: float) -> None:
        end = self.timing.monotonic() + seconds
        while (left := end - self.timing.monotonic()) > 0 and not self.stopping():
            self.timing.sleep(min(left, _POLL_SECS))


@dataclass(slots=True)
class DeliveryStats:
    """Numbers of delivered, refused and lost events, and of those dropped from a full outbox."""

    delivered: int = 0
    refused: int = 0
    dropped: int = 0
    lost: int = 0


@dataclass(slots=True)
class OutboxSender:
    """Send the events of one outbox in their order, and record the results in it.

    Attributes:
        name, address: of the target, as the log names them.
        writable: whether the outbox can be changed; otherwise events are sent and stay in it.
        refused_again: events in a row that were refused before and were refused again.
        last_answer: the answer to the last refused event.
        delivered: delivered events that are still to be removed.
    """

    outbox: Outbox
    client: RetryClient
    stats: DeliveryStats
    name: str = "the relay"
    address: str = ""
    writable: bool = True
    refused_again: int = 0
    last_answer: str = ""
    delivered: list[QueuedEvent] = field(default_factory=list)

    def run(self) -> str | None:
        """Send until every event was tried; return None, or why sending ended early.

        Raises:
            StateUnavailableError: the outbox cannot be read.
        """
        after = 0
        while page := self.outbox.next(after, _PAGE):
            after = page[-1].sequence
            group = REMOVE_GROUP if len(page) == _PAGE else 1
            try:
                for batch in self._batches(page):
                    if batch[0].answer is not None and self.refused_again >= REFUSED_TRIES:
                        continue
                    if (reason := self._send(batch)) is not None:
                        return reason
                    if len(self.delivered) >= group:
                        self._remove_delivered()
            finally:
                self._remove_delivered()
        return None

    def _batches(self, page: Sequence[QueuedEvent]) -> list[list[QueuedEvent]]:
        """Group events into batches; one that was refused before goes alone."""
        batches: list[list[QueuedEvent]] = []
        for queued in page:
            last = batches[-1] if batches else []
            if queued.answer is None and 0 < len(last) < self.client.client.batch_size and last[-1].answer is None:
                last.append(queued)
            else:
                batches.append([queued])
        return batches

    def _send(self, batch: Sequence[QueuedEvent]) -> str | None:
        """Send a batch; return why sending must end, or None."""
        if (reason := self.client.stop_reason()) is not None:
            return reason
        result = self.client.send([queued.event for queued in batch])
        if isinstance(result, Delivered):
            self.delivered += batch
            self.stats.delivered += len(batch)
            self.refused_again = 0
            return None
        if isinstance(result, Failed):
            return result.reason
        if len(batch) > 1:
            # Find the refused one. The relay may get those before it twice, with the same ids.
            return next((reason for queued in batch if (reason := self._send([queued])) is not None), None)
        self._record_refusal(batch[0], result.answer)
        return None

    def _record_refusal(self, queued: QueuedEvent, answer: str) -> None:
        now = self.client.timing.wall()
        refused = queued.refused(answer, now)
        is_parked = refused.is_refused_for_good(now)
        self._write(lambda: self.outbox.record_refusal(refused, parked=is_parked), "refusals are not counted")
        self.stats.refused += 1
        self.refused_again += queued.answer is not None
        # With a wrong token every event gets the same answer: log it once per run.
        repeated = answer in (queued.answer, self.last_answer)
        self.last_answer = answer
        level = logging.DEBUG if repeated else logging.WARNING
        text = "%s refused %s %s: %s"
        log.log(level, text, self.name, self.outbox.noun, queued.event, answer, extra=_refusing(self.name, self.address))
        if is_parked and self.writable:
            log.warning(
                "%s has refused %s %s %s, and is not sent it again: %s; arawn-cli doctor lists it",
                self.name,
                self.outbox.noun,
                queued.event,
                count(refused.refusals, "time"),
                answer,
                extra=persistent(f"parked {self.outbox.noun}s for {self.name}", shared=True, ended=""),
            )

    def _remove_delivered(self) -> None:
        delivered, self.delivered = self.delivered, []
        if delivered:
            self._write(lambda: self.outbox.remove(delivered), "the next run sends delivered events again, with the same ids")

    def _write(self, change: Callable[[], None], consequence: str) -> None:
        """Change the outbox; after the first failure leave it as it is."""
        if not self.writable:
            return
        try:
            change()
        except StateUnavailableError as error:
            self.writable = False
            log.warning("%s: %s", error, consequence, extra=STATE)


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
    """

    outbox: Outbox
    settings: Relay
    make_client: Callable[[], RelayClient]
    stopping: Callable[[], bool]
    timing: Timing = Timing()
    name: str = "the relay"
    address: str = ""
    stats: DeliveryStats = field(default_factory=DeliveryStats)
    _in_memory: Outbox | None = None
    _raised: set[str] = field(default_factory=set)

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
        """Send what is stored, within the deadline, and return the result."""
        reason: str | None = None
        try:
            reason = self._send()
        finally:
            self._store_rest()
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
                reason = OutboxSender(self._in_memory, client, self.stats, self.name, self.address).run()
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
                        return OutboxSender(self.outbox, client, self.stats, self.name, self.address).run()
                if client.stop_reason() is not None:
                    return "another run is sending them"
                self.timing.sleep(_LOCK_POLL_SECS)
        except StateUnavailableError as error:
            log.warning("%s: stored events are sent by the next run", error, extra=STATE)
            return None

    def _memory_outbox(self, error: StateUnavailableError) -> Outbox:
        log.warning("%s: events are sent without being stored first", error, extra=STATE)
        return Outbox(State.in_memory(), self.outbox.limit, self.outbox.target, self.outbox.root)

    def _store_rest(self) -> None:
        """Store the events that are left in memory: a cleanup may have made space for them."""
        rest = self._in_memory.next(0, -1) if self._in_memory is not None else []
        for number, queued in enumerate(rest):
            try:
                self._count_dropped(self.outbox.append(queued.event, queued.answer))
            except StateUnavailableError:
                self.stats.lost += len(rest) - number
                for lost in rest[number:]:
                    why = f"{self.name} refused it: {lost.answer}" if lost.answer else f"{self.name} did not confirm it"
                    log.error("lost %s %s, neither delivered nor stored: %s", self.outbox.noun, lost.event, why)
                return

    def _count_dropped(self, dropped: Sequence[OutgoingEvent]) -> None:
        """Count dropped events; only one of this run is lost, earlier ones were tried before."""
        for event in dropped:
            log.warning("the outbox is full (%d %ss): dropped %s", self.outbox.limit, self.outbox.noun, event, extra=_FULL)
        self.stats.dropped += len(dropped)
        self.stats.lost += sum(event.event_id in self._raised for event in dropped)

    def _log_queued(self, reason: str | None) -> None:
        """Cut the outbox down to its limit, and log what is left in it."""
        try:
            if self._in_memory is None:
                self._count_dropped(self.outbox.trim())
            left = self.outbox.summary()
        except StateUnavailableError as error:
            log.debug("%s", error)  # logged as a warning before
            return
        if left.first is None:
            return
        refused = f", {left.refused} of them refused by {self.name}" if left.refused else ""
        cause = reason or left.first.answer
        log.warning(
            "%s in the outbox%s%s%s; the first is %s",
            count(left.queued, self.outbox.noun),
            f" for {self.name}" if self.outbox.is_notify else "",
            refused,
            f": {cause}" if cause else "",
            left.first.event,
            extra=_unreachable(self.name, self.address) if reason else _refusing(self.name, self.address),
        )


def delivery_for(
    config: Config, target: RelayTarget, environment: Mapping[str, str], state: State, stopping: Callable[[], bool]
) -> Delivery | None:
    """Return the delivery of a run to a relay, or None in a dry run.

    Token and certificate authorities are checked here, before the run does anything. The client,
    whose import and TLS context take a third of the time of a check, is made when there is an event
    to send.

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
        ConfigurationError: the proxy or the file of certificate authorities cannot be used.
    """
    from arawn_cli.delivery.connecting import route_to

    route = route_to(target.address, target.ca_file, use_proxy=maintenance.use_proxy)
    if target.address.is_websocket:
        from arawn_cli.delivery.websocket import WebSocketClient

        return WebSocketClient(route, token, maintenance.relay.origin)
    from arawn_cli.delivery.http import HttpClient

    return HttpClient(route, token, time.time)
