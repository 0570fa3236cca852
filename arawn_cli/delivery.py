"""From raised to arrived: each event is stored, sent at the end of the run, and then removed.

Events that cannot be stored go out directly. Only one that is neither stored nor delivered is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from arawn_cli.bounded import within
from arawn_cli.courier import Courier, Pace
from arawn_cli.events import Event
from arawn_cli.outbox import Outbox, Waiting, put
from arawn_cli.parcels import Delivered, Parcel, Refused, Relay, Undelivered, parcel_of
from arawn_cli.state import State, StateUnavailableError, exclusive
from arawn_cli.surroundings import Change

log = logging.getLogger(__name__)

# Events that a relay refused in an earlier run cost one request each, in every run.
REFUSED_TRIES = 100

_PAGE = 200

# From a long queue, events are removed so many at a time: a run that is killed repeats no more than these.
_REMOVED_TOGETHER = 20
_LOCK_POLL_SECS = 0.05
_SHARE_OF_ATTEMPTS = 0.95


@dataclass(frozen=True, slots=True)
class Terms:
    """What the configuration says of delivery: event types, room in the outbox, seconds of an attempt and of all."""

    types: Collection[str]
    outbox_limit: int
    timeout: float
    deadline: float


@dataclass(slots=True)
class Tally:
    """What became of the events: how many arrived, were refused by the relay, left a full outbox, or are lost."""

    delivered: int = 0
    refused: int = 0
    dropped: int = 0
    lost: int = 0


@dataclass(slots=True)
class _Obstacle:
    """Why delivering ended before the outbox was empty."""

    reason: str = ""


@dataclass(slots=True)
class Delivery:
    """The relay's side of one run: takes events as they are raised, and delivers them in `finish`."""

    relay: Relay
    state: State
    terms: Terms
    pace: Pace
    tally: Tally = field(default_factory=Tally)
    _unstored: list[Parcel] = field(default_factory=list)
    _told: bool = False

    def emit(self, event: Event) -> None:
        """Stores an event of a wanted type, or keeps it at hand when that fails."""
        if event.type in self.terms.types:
            parcel = parcel_of(event)
            if not self._store(parcel):
                self._keep_at_hand(parcel)

    def commit(self, change: Change) -> Sequence[Event] | None:
        """Makes a change of the state, and stores the wanted ones of its events in the same transaction.

        Answers with all of its events, or with None where the state takes no change; nothing has happened then.
        """
        dropped: list[Parcel] = []
        try:
            with self.state.transaction() as connection:
                events = change(connection)
                for event in events:
                    if event.type in self.terms.types:
                        dropped += put(connection, parcel_of(event), self.terms.outbox_limit)
        except StateUnavailableError as error:
            self._tell(error)
            return None
        self._drop(dropped)
        return events

    def finish(self) -> Tally:
        """Delivers what waits, within the deadline, and answers what became of it."""
        # The rest of the time is for what follows the last attempt.
        until = self.pace.monotonic() + self.terms.deadline * _SHARE_OF_ATTEMPTS
        courier = Courier(self.relay, self.pace, self.terms.timeout, until)
        if not within(self.terms.deadline, lambda: self._deliver(courier)):
            log.warning("the relay held on past the deadline of %g s: what waits is tried again by the next run", self.terms.deadline)
            self._lose(self._unstored, "the relay did not let go in time; it may have the event or not")
        return self.tally

    def _deliver(self, courier: Courier) -> None:
        try:
            self._store_late()
            if self._unstored:
                # The outbox takes no change now: what it holds could be sent, but not be removed.
                self._send_directly(courier)
            else:
                self._deliver_stored(courier)
        finally:
            self.relay.close()

    def _outbox(self) -> Outbox:
        return Outbox(self.state, self.terms.outbox_limit)

    def _store(self, parcel: Parcel) -> bool:
        try:
            dropped = self._outbox().add(parcel)
        except StateUnavailableError as error:
            self._tell(error)
            return False
        self._drop(dropped)
        return True

    def _tell(self, error: StateUnavailableError) -> None:
        if not self._told:
            log.warning("%s: events go to the relay directly", error)
        self._told = True

    def _drop(self, dropped: Sequence[Parcel]) -> None:
        for old in dropped:
            log.warning("the outbox is full (%d events): dropped %s", self.terms.outbox_limit, old)
        self.tally.dropped += len(dropped)

    def _keep_at_hand(self, parcel: Parcel) -> None:
        if len(self._unstored) < self.terms.outbox_limit:
            self._unstored.append(parcel)
        else:
            self._lose([parcel], "not stored, and too many are at hand already")

    def _store_late(self) -> None:
        """Stores what could not be stored before: a cleanup makes room as it goes."""
        stored = 0
        for parcel in self._unstored:
            if not self._store(parcel):
                break
            stored += 1
        del self._unstored[:stored]

    def _send_directly(self, courier: Courier) -> None:
        size = self.relay.batch
        while self._unstored:
            batch = self._unstored[:size]
            answer = courier.carry(batch)
            if isinstance(answer, Refused) and len(batch) > 1:
                size = 1  # which of them is meant, only single ones tell
                continue
            del self._unstored[: len(batch)]
            if isinstance(answer, Delivered):
                self.tally.delivered += len(batch)
            elif isinstance(answer, Refused):
                self._lose(batch, f"the relay refuses it: {answer.answer}")
            else:
                self._lose(batch, answer.reason)

    def _lose(self, parcels: Sequence[Parcel], reason: str) -> None:
        self.tally.lost += len(parcels)
        for parcel in parcels:
            log.error("lost event %s, neither delivered nor stored: %s", parcel, reason)

    def _deliver_stored(self, courier: Courier) -> None:
        """Empties the outbox, unless another run is at it until the time is up."""
        try:
            outbox = self._outbox()
            if not outbox.next(0, 1):
                return
            self.state.settle()
            obstacle = self._deliver_in_turn(outbox, courier)
            contents = outbox.contents()
        except StateUnavailableError as error:
            log.warning("%s: what waits in the outbox is tried again by the next run", error)
            return
        if contents.waiting:
            refused = f", {contents.refused} of them refused by the relay" if contents.refused else ""
            log.warning("%d events wait in the outbox%s%s", contents.waiting, refused, f": {obstacle.reason}" if obstacle.reason else "")

    def _deliver_in_turn(self, outbox: Outbox, courier: Courier) -> _Obstacle:
        while True:
            with exclusive(self.state.directory) as ours:
                if ours:
                    return _Round(outbox, courier, self.tally).run()
            if courier.is_over:
                return _Obstacle("another run is delivering")
            self.pace.sleep(_LOCK_POLL_SECS)


@dataclass(slots=True)
class _Round:
    """One pass through the outbox, in order, by the one run that holds its lock."""

    outbox: Outbox
    courier: Courier
    tally: Tally
    refused_tries: int = 0
    last_answer: str = ""
    arrived: list[Waiting] = field(default_factory=list)

    def run(self) -> _Obstacle:
        """Goes on until nothing is left that was not tried, or the relay or the time stops it."""
        after = 0
        while page := self.outbox.next(after, _PAGE):
            after = page[-1].sequence
            together = _REMOVED_TOGETHER if len(page) == _PAGE else 1
            try:
                obstacle = self._settle_all(self._batches(page), together)
            finally:
                self._remove_arrived()
            if obstacle is not None:
                return obstacle
        return _Obstacle()

    def _settle_all(self, batches: Sequence[Sequence[Waiting]], together: int) -> _Obstacle | None:
        for batch in batches:
            obstacle = self._settle(batch)
            if obstacle is not None:
                return obstacle
            if len(self.arrived) >= together:
                self._remove_arrived()
        return None

    def _remove_arrived(self) -> None:
        if self.arrived:
            self.outbox.remove(self.arrived)
            self.arrived = []

    def _batches(self, page: Sequence[Waiting]) -> list[list[Waiting]]:
        """Events that were refused before go alone, so that they spoil no batch."""
        batches: list[list[Waiting]] = []
        for waiting in page:
            if waiting.answer is not None:
                self.refused_tries += 1
                if self.refused_tries > REFUSED_TRIES:
                    continue
            previous = batches[-1] if batches else []
            joins = waiting.answer is None and 0 < len(previous) < self.courier.relay.batch and previous[-1].answer is None
            if joins:
                previous.append(waiting)
            else:
                batches.append([waiting])
        return batches

    def _settle(self, batch: Sequence[Waiting]) -> _Obstacle | None:
        if self.courier.is_over:
            return _Obstacle("no time was left")
        answer = self.courier.carry([waiting.parcel for waiting in batch])
        if isinstance(answer, Delivered):
            self.arrived += batch
            self.tally.delivered += len(batch)
        elif isinstance(answer, Undelivered):
            self.outbox.tried(batch)
            return _Obstacle(answer.reason)
        elif len(batch) == 1:
            self._refuse(batch[0], answer.answer)
        else:
            return self._settle_singly(batch)
        return None

    def _settle_singly(self, batch: Sequence[Waiting]) -> _Obstacle | None:
        """Finds out which of a refused batch is meant."""
        for waiting in batch:
            obstacle = self._settle([waiting])
            if obstacle is not None:
                return obstacle
        return None

    def _refuse(self, waiting: Waiting, answer: str) -> None:
        self.outbox.refuse(waiting, answer)
        self.tally.refused += 1
        # A wrong token is refused for every event in the same words; once a run is enough.
        repeated = answer in (waiting.answer, self.last_answer)
        self.last_answer = answer
        log.log(logging.DEBUG if repeated else logging.WARNING, "the relay refuses event %s: %s", waiting.parcel, answer)
