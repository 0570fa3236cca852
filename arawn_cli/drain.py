"""One pass through the outbox, in order, by the one run that holds its lock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from arawn_cli.courier import Courier
from arawn_cli.outbox import Outbox, Waiting
from arawn_cli.parcels import Delivered, Refused, Undelivered
from arawn_cli.state_file import StateUnavailableError

log = logging.getLogger(__name__)

# Events that a relay refused in an earlier run: once so many in a row are refused again, the others wait.
REFUSED_TRIES = 100

_PAGE = 200

# From a long queue, events are removed so many at a time: a run that is killed repeats no more than these.
REMOVED_TOGETHER = 20


@dataclass(slots=True)
class Tally:
    """What became of the events: how many arrived, were refused by the relay, left a full outbox, or are lost."""

    delivered: int = 0
    refused: int = 0
    dropped: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why delivering ended before the outbox was empty."""

    reason: str = ""


@dataclass(slots=True)
class Drain:
    """The pass, and what of it is confirmed and still to be removed.

    Attributes:
        removes: whether the outbox takes changes; without it events are sent and stay.
        refused_in_a_row: formerly refused events that were refused again since one was taken.
    """

    outbox: Outbox
    courier: Courier
    tally: Tally
    removes: bool = True
    refused_in_a_row: int = 0
    last_answer: str = ""
    arrived: list[Waiting] = field(default_factory=list)

    def run(self) -> Obstacle:
        """Goes on until nothing is left that was not tried, or the relay or the time stops it."""
        after = 0
        while page := self.outbox.next(after, _PAGE):
            after = page[-1].sequence
            together = REMOVED_TOGETHER if len(page) == _PAGE else 1
            try:
                obstacle = self._settle_all(page, together)
            finally:
                self.remove_arrived()
            if obstacle is not None:
                return obstacle
        return Obstacle()

    def remove_arrived(self) -> None:
        """Forgets what is confirmed; after the first failure the rest is sent without, and sent again by the next run."""
        arrived, self.arrived = self.arrived, []
        if not arrived or not self.removes:
            return
        try:
            self.outbox.remove([waiting.sequence for waiting in arrived])
        except StateUnavailableError as error:
            self.removes = False
            log.warning("%s: what is delivered now is delivered again by the next run, with the same ids", error)

    def _settle_all(self, page: Sequence[Waiting], together: int) -> Obstacle | None:
        for batch in self._batches(page):
            if batch[0].answer is not None and self.refused_in_a_row >= REFUSED_TRIES:
                continue
            obstacle = self._settle(batch)
            if obstacle is not None:
                return obstacle
            if len(self.arrived) >= together:
                self.remove_arrived()
        return None

    def _batches(self, page: Sequence[Waiting]) -> list[list[Waiting]]:
        """Events that were refused before go alone, so that they spoil no batch."""
        batches: list[list[Waiting]] = []
        for waiting in page:
            previous = batches[-1] if batches else []
            joins = waiting.answer is None and 0 < len(previous) < self.courier.relay.batch and previous[-1].answer is None
            if joins:
                previous.append(waiting)
            else:
                batches.append([waiting])
        return batches

    def _settle(self, batch: Sequence[Waiting]) -> Obstacle | None:
        if self.courier.is_over:
            return Obstacle(self.courier.why_over())
        answer = self.courier.carry([waiting.parcel for waiting in batch])
        if isinstance(answer, Delivered):
            self.arrived += batch
            self.tally.delivered += len(batch)
            self.refused_in_a_row = 0
        elif isinstance(answer, Undelivered):
            self._note(lambda: self.outbox.tried(batch))
            return Obstacle(answer.reason)
        elif len(batch) == 1:
            self._refuse(batch[0], answer)
        else:
            return self._settle_singly(batch)
        return None

    def _settle_singly(self, batch: Sequence[Waiting]) -> Obstacle | None:
        """Finds out which of a refused batch is meant; the relay may get those before it twice, with the same ids."""
        for waiting in batch:
            obstacle = self._settle([waiting])
            if obstacle is not None:
                return obstacle
        return None

    def _refuse(self, waiting: Waiting, refused: Refused) -> None:
        self._note(lambda: self.outbox.refuse(waiting, refused.answer))
        self.tally.refused += 1
        self.refused_in_a_row += waiting.answer is not None
        # A wrong token is refused for every event in the same words; once a run is enough.
        repeated = refused.answer in (waiting.answer, self.last_answer)
        self.last_answer = refused.answer
        log.log(logging.DEBUG if repeated else logging.WARNING, "the relay refuses event %s: %s", waiting.parcel, refused.answer)

    def _note(self, note: Callable[[], None]) -> None:
        """Notes how a try ended, where the outbox takes it; the event waits in either case."""
        try:
            if self.removes:
                note()
        except StateUnavailableError as error:
            self.removes = False
            log.warning("%s: how often events were tried is not noted", error)
