"""From raised to arrived: each event is stored, sent at the end of the run, and then removed.

Events that cannot be stored go out directly, behind what waits. Only one that is neither stored nor delivered is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from arawn_cli.courier import Courier, Pace
from arawn_cli.drain import Drain, Obstacle, Tally
from arawn_cli.events import Event
from arawn_cli.outbox import Outbox
from arawn_cli.parcels import Delivered, Parcel, Refused, Relay, parcel_of
from arawn_cli.state_file import StateUnavailableError, exclusive, refuse_planted
from arawn_cli.surroundings import Change

log = logging.getLogger(__name__)

_LOCK_POLL_SECS = 0.05


@dataclass(frozen=True, slots=True)
class Terms:
    """What the configuration says of delivery: event types, seconds of an attempt and of all."""

    types: Collection[str]
    timeout: float
    deadline: float


@dataclass(slots=True)
class Delivery:
    """The relay's side of one run: takes events as they are raised, and delivers them in `finish`.

    Once one event could not be stored, all later ones stay at hand too: the order in which they were raised is kept.
    """

    relay: Relay
    outbox: Outbox
    terms: Terms
    pace: Pace
    tally: Tally = field(default_factory=Tally)
    _at_hand: list[Parcel] = field(default_factory=list)
    _raised: set[str] = field(default_factory=set)
    _stores: bool = True

    def emit(self, event: Event) -> None:
        """Stores an event of a wanted type, or keeps it at hand when that fails."""
        if event.type not in self.terms.types:
            return
        parcel = parcel_of(event)
        self._raised.add(parcel.event_id)
        if not (self._stores and self._store(parcel)):
            self._keep_at_hand(parcel)

    def commit(self, change: Change) -> Sequence[Event] | None:
        """Makes a change of the state, and stores the wanted ones of its events in the same transaction.

        Answers with all of its events, or with None where the state takes no change; nothing has happened then.
        """
        if not self._stores:
            return None
        dropped: list[Parcel] = []
        try:
            with self.outbox.state.transaction() as connection:
                events = change(connection)
                for event in events:
                    if event.type in self.terms.types:
                        self._raised.add(event.id)
                        dropped += self.outbox.put(connection, parcel_of(event))
        except StateUnavailableError as error:
            self._stop_storing(error)
            return None
        self._drop(dropped)
        return events

    def finish(self) -> Tally:
        """Delivers what waits, within the deadline, and answers what became of it."""
        courier = Courier(self.relay, self.pace, self.terms.timeout, self.pace.monotonic() + self.terms.deadline)
        try:
            obstacle = self._deliver_stored(courier)
            if not obstacle.reason:
                obstacle = Obstacle(self._send_at_hand(courier))
        finally:
            courier.close()
            self._keep_or_lose()
        if self.tally.delivered or self.tally.refused:
            refused = f", and {self.tally.refused} refused" if self.tally.refused else ""
            log.info("%s delivered%s by the relay", _counted(self.tally.delivered, "was"), refused)
        self._tell_what_waits(obstacle)
        if self.tally.dropped:
            log.error("%s dropped: the outbox is full (outbox_max_events = %d)", _counted(self.tally.dropped, "was"), self.outbox.limit)
        return self.tally

    def _store(self, parcel: Parcel) -> bool:
        try:
            self._drop(self.outbox.add(parcel))
        except StateUnavailableError as error:
            self._stop_storing(error)
            return False
        return True

    def _stop_storing(self, error: StateUnavailableError) -> None:
        self._stores = False
        log.warning("%s: events go to the relay directly", error)

    def _drop(self, dropped: Sequence[Parcel]) -> None:
        """An event of an earlier run had its chances; one of this run is lost by it."""
        for old in dropped:
            log.warning("the outbox is full (%d events): dropped %s", self.outbox.limit, old)
        self.tally.dropped += len(dropped)
        self.tally.lost += sum(parcel.event_id in self._raised for parcel in dropped)

    def _keep_at_hand(self, parcel: Parcel) -> None:
        if len(self._at_hand) < self.outbox.limit:
            self._at_hand.append(parcel)
        else:
            self._lose([parcel], "not stored, and too many are at hand already")

    def _deliver_stored(self, courier: Courier) -> Obstacle:
        """Empties the outbox, unless another run is at it until the time is up."""
        try:
            self._look_for_damage()
            if not self.outbox.next(0, 1):
                return Obstacle()
            refuse_planted(self.outbox.state.directory)
            self._settle()
            return self._deliver_in_turn(courier)
        except StateUnavailableError as error:
            log.warning("%s: what waits in the outbox is tried again by the next run", error)
            return Obstacle()

    def _look_for_damage(self) -> None:
        """A damaged state file is set aside by opening it; one that cannot be opened can perhaps still be read."""
        try:
            if self._stores:
                self.outbox.state.ready()
        except StateUnavailableError as error:
            self._stop_storing(error)

    def _settle(self) -> None:
        try:
            self.outbox.state.settle()
        except StateUnavailableError as error:
            log.warning("%s: what is stored may not outlive a power cut", error)

    def _deliver_in_turn(self, courier: Courier) -> Obstacle:
        while True:
            with exclusive(self.outbox.state.directory) as ours:
                if ours:
                    return Drain(self.outbox, courier, self.tally).run()
            if courier.is_over:
                return Obstacle("another run is delivering")
            self.pace.sleep(_LOCK_POLL_SECS)

    def _send_at_hand(self, courier: Courier) -> str:
        """Sends what is not stored; answers why it ended before all was sent."""
        size = self.relay.batch
        while self._at_hand:
            batch = self._at_hand[:size]
            answer = courier.carry(batch)
            if isinstance(answer, Delivered):
                del self._at_hand[: len(batch)]
                self.tally.delivered += len(batch)
            elif isinstance(answer, Refused) and len(batch) > 1:
                size = 1  # which of them is meant, only single ones tell
            elif isinstance(answer, Refused):
                del self._at_hand[:1]
                self._keep_refused(batch[0], answer)
            else:
                return answer.reason
        return ""

    def _keep_refused(self, parcel: Parcel, refused: Refused) -> None:
        try:
            self._drop(self.outbox.add(parcel, refused.answer))
        except StateUnavailableError:
            self._lose([parcel], f"the relay refuses it: {refused.answer}")

    def _keep_or_lose(self) -> None:
        """What is still at hand is stored after all, as far as that goes now: a cleanup may have made room."""
        left, self._at_hand = self._at_hand, []
        for number, parcel in enumerate(left):
            try:
                self._drop(self.outbox.add(parcel))
            except StateUnavailableError:
                self._lose(left[number:], "the relay did not confirm it, and the state takes no change")
                return

    def _lose(self, parcels: Sequence[Parcel], reason: str) -> None:
        self.tally.lost += len(parcels)
        for parcel in parcels:
            log.error("lost event %s, neither delivered nor stored: %s", parcel, reason)

    def _tell_what_waits(self, obstacle: Obstacle) -> None:
        try:
            self._drop(self.outbox.trim() if self._stores else [])
            contents = self.outbox.contents()
        except StateUnavailableError as error:
            log.debug("%s", error)  # told where it was first met
            return
        if contents.first is None:
            return
        refused = f", {contents.refused} of them refused by the relay" if contents.refused else ""
        reason = obstacle.reason or contents.first.answer or ""
        wait = "waits" if contents.waiting == 1 else "wait"
        log.warning(
            "%s in the outbox%s%s; the first is %s",
            _counted(contents.waiting, wait),
            refused,
            f": {reason}" if reason else "",
            contents.first.parcel,
        )


def _counted(number: int, verb: str) -> str:
    """`1 event waits`, `3 events wait`; for `was` the verb follows the number too."""
    if number == 1:
        return f"1 event {verb}"
    return f"{number} events {'were' if verb == 'was' else verb}"
