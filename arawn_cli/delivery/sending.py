"""Send stored events to the relay: retries, deadline, and what happens to events that do not arrive."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from arawn_cli.config.loader import Config, RelayTarget
from arawn_cli.context import Change
from arawn_cli.delivery.credentials import Token, token_for
from arawn_cli.delivery.message import Answer, Delivered, Parcel, Refused, Relay, Undelivered, parcel_of
from arawn_cli.delivery.outbox import Outbox, Waiting
from arawn_cli.events import Event
from arawn_cli.state import State, StateUnavailableError, check_owner, exclusive_lock
from arawn_cli.units import span

log = logging.getLogger(__name__)

Result = TypeVar("Result")


_NAP_SECS = 0.1


# What a signal still allows: an answer that is on its way tells whether an event arrived.
_AFTER_SIGNAL_SECS = 0.5


class OverdueError(Exception):
    """The work has not ended; it goes on, and nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class _Done(Generic[Result]):
    """A piece of work has an answer."""

    result: Result


@dataclass(frozen=True, slots=True)
class _Failed:
    """A piece of work raised an error."""

    error: Exception


class Worker(Generic[Result]):
    """Does one piece of work after the other, and none of them for longer than it may take.

    No timeout of a socket limits the resolving of a name, or an answer that comes a byte at a time. So the
    work is done in a thread, which is left behind when its time is up, and ends with the process.
    It must touch nothing that the program uses afterwards.
    """

    def __init__(self) -> None:
        self._orders: SimpleQueue[Callable[[], Result] | None] | None = None
        self._ended: SimpleQueue[_Done[Result] | _Failed] = SimpleQueue()

    def run(self, work: Callable[[], Result], seconds: float, stopping: Callable[[], bool]) -> Result:
        """What the work answers.

        Args:
            work: what to do.
            seconds: how long it may take.
            stopping: whether a signal asks for an end, which cuts that short.

        Raises:
            OverdueError: it has not ended in time.
            Exception: what the work raises.
        """
        if self._orders is None:
            self._orders = self._hire()
        self._orders.put(work)
        ended = self._wait(time.monotonic() + seconds, stopping)
        if ended is None:
            self.close()
            raise OverdueError
        if isinstance(ended, _Failed):
            raise ended.error
        return ended.result

    def close(self) -> None:
        """Lets the thread go, once it is done with what it does."""
        if self._orders is not None:
            self._orders.put(None)
            self._orders = None

    def _hire(self) -> SimpleQueue[Callable[[], Result] | None]:
        orders: SimpleQueue[Callable[[], Result] | None] = SimpleQueue()
        # A queue of its own: what one that was left behind says later is heard by nobody.
        ended: SimpleQueue[_Done[Result] | _Failed] = SimpleQueue()
        self._ended = ended
        threading.Thread(target=_work_off, args=(orders, ended), daemon=True).start()
        return orders

    def _wait(self, until: float, stopping: Callable[[], bool]) -> _Done[Result] | _Failed | None:
        told = False
        while True:
            if not told and stopping():
                told, until = True, min(until, time.monotonic() + _AFTER_SIGNAL_SECS)
            left = until - time.monotonic()
            try:
                return self._ended.get(timeout=max(min(left, _NAP_SECS), 0.0))
            except Empty:
                if left <= 0:
                    return None


def _work_off(orders: SimpleQueue[Callable[[], Result] | None], ended: SimpleQueue[_Done[Result] | _Failed]) -> None:
    while (work := orders.get()) is not None:
        try:
            ended.put(_Done(work()))
        except Exception as error:  # it is raised again where the work is waited for
            ended.put(_Failed(error))


FIRST_WAIT_SECS = 0.25


LONGEST_WAIT_SECS = 8.0


# An attempt keeps its own time; one that does not is left behind so much later.
GRACE_SECS = 0.1


_COURIER_NAP_SECS = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """Time and chance.

    Attributes:
        monotonic: a clock that never steps, in seconds.
        sleep: waits for so many seconds.
        chance: a random number from 0 to below 1.
        stopping: whether a signal asked the run to end.
    """

    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    chance: Callable[[], float]
    stopping: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Courier:
    """Brings events to a relay, trying again with growing waits, until a point in time.

    Only an attempt is left to another thread, which touches nothing but the connection: one that is left behind disturbs nothing.

    Attributes:
        timeout: seconds of one attempt.
        until: when all of it ends, on the monotonic clock.
    """

    relay: Relay
    pace: Pace
    timeout: float
    until: float
    _worker: Worker[Answer] = field(default_factory=Worker)

    @property
    def is_over(self) -> bool:
        """Whether there is no time for another attempt."""
        return self.pace.stopping() or self.pace.monotonic() >= self.until

    def why_over(self) -> str:
        """What ended the trying."""
        return "interrupted" if self.pace.stopping() else "no time was left"

    def carry(self, parcels: Sequence[Parcel]) -> Answer:
        """What came of the events; `Undelivered` when the time is up, or trying again would change nothing in this run."""
        answer: Undelivered | None = None
        tries = 0
        while (left := self.until - self.pace.monotonic()) > 0 and not self.pace.stopping():
            latest = self._attempt(parcels, min(self.timeout, left))
            if not isinstance(latest, Undelivered) or latest.hopeless:
                return latest
            answer = latest
            wait = max(self._backoff(tries), answer.retry_after or 0.0)
            tries += 1
            if self.pace.monotonic() + wait >= self.until:
                return answer
            log.debug("%s; next try in %.1f s", answer.reason, wait)
            self._pause(wait)
        return self._unfinished(answer)

    def close(self) -> None:
        """Lets go of connections."""
        self._worker.close()
        self.relay.close()

    def _attempt(self, parcels: Sequence[Parcel], seconds: float) -> Answer:
        try:
            return self._worker.run(lambda: self.relay.attempt(parcels, seconds), seconds + GRACE_SECS, self.pace.stopping)
        except OverdueError:
            return Undelivered(f"the relay held on for more than {span(seconds)}; it may have the event or not")
        except Exception as error:  # the relay decides what it answers, and must not end the run by it
            log.debug("where it happened", exc_info=True)
            return Undelivered(f"the answer of the relay cannot be understood: {type(error).__name__}")

    def _unfinished(self, answer: Undelivered | None) -> Undelivered:
        if answer is None:
            return Undelivered(self.why_over())
        return Undelivered(f"interrupted; {answer.reason}") if self.pace.stopping() else answer

    def _backoff(self, tries: int) -> float:
        """Twice as long each time, and by chance up to half shorter, so that many machines do not come back at one moment."""
        longest: float = min(FIRST_WAIT_SECS * 2 ** min(tries, 16), LONGEST_WAIT_SECS)
        return longest * (1 - self.pace.chance() / 2)

    def _pause(self, seconds: float) -> None:
        """Waits in short naps: a sleep goes on after a signal."""
        end = self.pace.monotonic() + seconds
        while (left := end - self.pace.monotonic()) > 0 and not self.pace.stopping():
            self.pace.sleep(min(left, _COURIER_NAP_SECS))


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
            check_owner(self.outbox.state.directory)
            self._settle()
            return self._deliver_in_turn(courier)
        except StateUnavailableError as error:
            log.warning("%s: what waits in the outbox is tried again by the next run", error)
            return Obstacle()

    def _look_for_damage(self) -> None:
        """A damaged state file is set aside by opening it; one that cannot be opened can perhaps still be read."""
        try:
            if self._stores:
                self.outbox.state.open()
        except StateUnavailableError as error:
            self._stop_storing(error)

    def _settle(self) -> None:
        try:
            self.outbox.state.checkpoint()
        except StateUnavailableError as error:
            log.warning("%s: what is stored may not outlive a power cut", error)

    def _deliver_in_turn(self, courier: Courier) -> Obstacle:
        while True:
            with exclusive_lock(self.outbox.state.directory) as ours:
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
        from arawn_cli.delivery.websocket import WebSocketRelay

        return WebSocketRelay(target.address, token, target.ca_file, origin)
    from arawn_cli.delivery.http import HttpRelay

    return HttpRelay(target.address, token, target.ca_file, time.time)
