"""Tell people through Apprise what needs their attention: one short message per run.

A message is stored in the outbox once for each address, which is its target. An address
that does not accept it holds up neither the other ones nor the relay.

The table `notices` of the state has the last message about each subject. So a level or a failure
that lasts is reported once, and again after `repeat_interval`, if that is not 0.
"""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import Literal, cast
from urllib.parse import quote
from uuid import uuid4

from arawn_cli import timestamps
from arawn_cli.check_events import DiskCheck, DiskPressure
from arawn_cli.cleanup_events import ScratchCleanup
from arawn_cli.config.loader import Config
from arawn_cli.context import EventOutbox
from arawn_cli.delivery.apprise_client import Address, AppriseClient, addresses_from, missing_apprise
from arawn_cli.delivery.message import OutgoingEvent
from arawn_cli.delivery.outbox import IS_NOTIFY, NOTIFY, DropPriority, Outbox
from arawn_cli.delivery.sending import Delivery
from arawn_cli.errors import ExitCode, StateUnavailableError
from arawn_cli.events import UNRESOLVED, Event, JobName, Level, Reason, Unit
from arawn_cli.names import cut, escape, shortened
from arawn_cli.problems import STATE, is_due_without_state, persistent
from arawn_cli.state import State, key_of
from arawn_cli.timestamps import SECOND, minute
from arawn_cli.units import count, period, seconds_of, size

log = logging.getLogger(__name__)

_READ = "SELECT kind, subject, value, notified_at FROM notices WHERE root = ?"

_READ_TARGETS = f"SELECT DISTINCT target FROM outbox WHERE {IS_NOTIFY} AND drop_priority <> {DropPriority.PARKED:d}"  # noqa: S608

_SHORTEST_SHARE = 0.1  # seconds

_LINES = 10  # of a message; the others are counted
_SESSIONS = 5  # that a line names
_TEXT = 300  # characters of a reason

_FAILURES = {
    ExitCode.PARTIAL: "was not complete",
    ExitCode.UNDELIVERED: "lost events",
    ExitCode.INTERNAL: "failed",
    ExitCode.REFUSED: "was refused",
    ExitCode.CONFIG: "cannot run",
}
"""Exit codes to report, with their words about a job. Another run in progress is not a failure."""


_SUCCESS = (ExitCode.DONE, ExitCode.LEVEL_REACHED)


class Urgency(IntEnum):
    """The order of the lines of a message, most urgent first."""

    CRITICAL = 0
    FAILED = 1
    WARNING = 2
    EXPIRING = 3
    CLEANED = 4
    RECOVERED = 5


_TYPES = {Urgency.CRITICAL: "failure", Urgency.FAILED: "failure", Urgency.WARNING: "warning", Urgency.RECOVERED: "success"}
"""The types of messages that Apprise has; any other line is `info`."""


@dataclass(frozen=True, slots=True)
class Line:
    """One fact for people: in short for the title, in full, and a command as the next step."""

    urgency: Urgency
    short: str
    full: str
    step: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """The last notification of a subject (level, exit code or expiry), and its time."""

    value: str
    at: int


NoticeKind = Literal["level", "job", "session"]
Notices = dict[str, Notice]
"""The notices of a kind, by subject."""


def compose(lines: Sequence[Line], host: str, root_name: str | None) -> dict[str, str]:
    """Return title, body and type of a message: worst line first, then the next steps."""
    ordered = sorted(lines, key=lambda line: line.urgency)
    more = f", and {len(ordered) - 1} more" if len(ordered) > 1 else ""
    place = host if root_name is None else f"{host} ({root_name})"
    rest = [f"and {len(ordered) - _LINES} more"] if len(ordered) > _LINES else []
    steps = dict.fromkeys(line.step for line in ordered if line.step)
    body = [*(line.full for line in ordered[:_LINES]), *rest, *(f"Next: {step}" for step in list(steps)[:2])]
    return {"title": f"Arawn on {place}: {ordered[0].short}{more}", "body": "\n".join(body), "type": _TYPES.get(ordered[0].urgency, "info")}


def level_lines(events: Sequence[DiskPressure], before: Mapping[str, Notice], *, repeats: bool, now: int) -> tuple[list[Line], Notices]:
    """Return the lines about levels, and the notices after them.

    Without `repeats`, the events are those of all scopes above their limits and of all recoveries;
    only those that differ from the last notice are reported. With it, each event is due.
    """
    lines: list[Line] = []
    after = dict(before) if repeats else {}
    for event in events:
        last = before.get(event.scope)
        is_news = event.level != (last.value if last else Level.OK)
        if is_news or (repeats and event.level is not Level.OK):
            lines.append(_level_line(event, last))
        if event.level is Level.OK:
            after.pop(event.scope, None)
        else:
            after[event.scope] = last if last and not is_news else Notice(event.level, now)
    return lines, after


def _level_line(event: DiskPressure, last: Notice | None) -> Line:
    # Any program of the agent's can name a workstream: no control character reaches a terminal.
    name = escape(event.workstream_name)
    if event.unit is Unit.INODES:
        amounts = f"{event.usage_bytes:,} of {event.limit_bytes:,} inodes"
    else:
        amounts = f"{size(event.usage_bytes)} of {size(event.limit_bytes)}"
    at_least = "" if event.complete else "at least "
    if event.level is Level.OK:
        return Line(Urgency.RECOVERED, f"{name} is ok again", f"ok again: {name}, {amounts}")
    full = f"{event.level}: {name}, {at_least}{amounts} ({event.usage_bytes * 100 // event.limit_bytes} %)"
    if last is not None:
        full += ", as before" if last.value == event.level else f", was {last.value}"
    root = "" if event.root is None else f" --root {event.root}"
    step = f"arawn-cli report{root}"
    if event.reclaimable_bytes:
        step = f"arawn-cli scratch-cleanup{root} -n (it would free {size(event.reclaimable_bytes)})"
    urgency = Urgency.CRITICAL if event.level is Level.CRITICAL else Urgency.WARNING
    return Line(urgency, f"{name} is {event.level}, {at_least}{amounts}", full, step)


def job_lines(
    job: JobName, code: ExitCode, why: str, before: Mapping[str, Notice], *, root: str, repeat_secs: int, now: int
) -> tuple[list[Line], Notices]:
    """Return the line about a run that failed, or that works again, and the notices after it."""
    last = before.get(job)
    after = {name: notice for name, notice in before.items() if name != job}
    if code in _SUCCESS:
        return [Line(Urgency.RECOVERED, f"{job} works again", f"{job} works again")] if last is not None else [], after
    # A clock that was set back must not suppress it.
    is_repeat = last is not None and repeat_secs > 0 and not 0 <= now - last.at < repeat_secs * SECOND
    if last is not None and last.value == str(int(code)) and not is_repeat:
        return [], {**after, job: last}
    is_shown_by_cleanup = job is JobName.SCRATCH_CLEANUP and code is ExitCode.REFUSED
    step = f"arawn-cli scratch-cleanup{root} -n -v" if is_shown_by_cleanup else f"arawn-cli doctor{root}"
    short = f"{job} {_FAILURES[code]}"
    line = Line(Urgency.FAILED, short, f"{short} (exit code {int(code)}): {cut(why, _TEXT)}", step)
    return [line], {**after, job: Notice(str(int(code)), now)}


def why_failed(code: ExitCode, summary: ScratchCleanup | DiskCheck | None, problems: Sequence[str]) -> str:
    """Return why a run ended with a code: from its summary or from its problems."""
    from_result = why_incomplete(summary) if code in (ExitCode.PARTIAL, ExitCode.REFUSED) else None
    return from_result or next(iter(problems), code.meaning)


def why_incomplete(summary: ScratchCleanup | DiskCheck | None) -> str | None:
    """Return why a run is incomplete, as its summary says it; None if it says nothing."""
    if summary is None:
        return None
    kept = summary.sessions_kept if isinstance(summary, ScratchCleanup) else {}
    if blocked := kept.get(Reason.REMOVAL_LIMIT):
        return f"{count(blocked, 'session')} would be removed, more than the removal limit allows; none was removed"
    if summary.failures:
        first = summary.failures[0]
        return f"{count(summary.failure_count, 'failure')}, the first: {first.operation} {first.path}: {first.message}"
    if stay := {reason: number for reason, number in kept.items() if reason in UNRESOLVED}:
        return "sessions stay that are due: " + ", ".join(f"{number} {reason}" for reason, number in stay.items())
    if isinstance(summary, ScratchCleanup) and summary.over_budget_bytes:
        return f"the budget is still exceeded by {size(summary.over_budget_bytes)}"
    return None


def cleaned_lines(summary: ScratchCleanup, root: str) -> list[Line]:
    """Return the line about the sessions that a cleanup removed, if it removed any."""
    if not summary.sessions_cleaned:
        return []
    names = _listed(map(shortened, summary.cleaned_session_ids), summary.sessions_cleaned)
    short = f"{count(summary.sessions_cleaned, 'session')} removed"
    if summary.trash_until is None:
        where, step = f"{size(summary.bytes_freed)} freed", ""
    else:
        where = f"{size(summary.bytes_trashed)} in the trash until {minute(timestamps.parse(summary.trash_until))}"
        step = f"arawn-cli trash restore{root} --last (to undo it)"
    return [Line(Urgency.CLEANED, short, f"{short}, {where}: {names}", step)]


def expiring_lines(summary: ScratchCleanup, before: Mapping[str, Notice], root: str, now: int) -> tuple[list[Line], Notices]:
    """Return the line about newly expiring sessions, if there are any, and the notices after it."""
    soon = {session.session_id: session.expires for session in summary.expiring or ()}
    after = {session: before.get(session) or Notice(expires, now) for session, expires in soon.items()}
    news = [session for session, expires in soon.items() if session not in before or before[session].value != expires]
    if not news:
        return [], after
    after |= {session: Notice(soon[session], now) for session in news}
    names = _listed((f"{shortened(session)} ({minute(timestamps.parse(soon[session]))})" for session in news), len(news))
    short = f"{count(len(news), 'session')} {'expires' if len(news) == 1 else 'expire'} within two days"
    return [Line(Urgency.EXPIRING, short, f"{short}: {names}", f"arawn-cli report{root}; a session that is used stays")], after


def _listed(names: Iterable[str], number: int) -> str:
    """Name the first of so many sessions, and count the others."""
    rest = [f"and {number - _SESSIONS:,} more"] if number > _SESSIONS else []
    return ", ".join([*islice(names, _SESSIONS), *rest])


def notifier_for(
    config: Config, file: Path, job: JobName, environment: Mapping[str, str], state: State, stopping: Callable[[], bool]
) -> Notifier:
    """Return the notifier of a run, with the addresses of a file.

    Raises:
        ConfigurationError: the addresses cannot be read.
    """
    return Notifier(config, job, addresses_from(file, environment), state, stopping)


@dataclass(slots=True)
class Notifier(EventOutbox):
    """Store one message about a run for each address, and send all stored ones when the run ends.

    Attributes:
        clock: the wall clock, in nanoseconds since the epoch.
    """

    config: Config
    job: JobName
    addresses: Sequence[Address]
    state: State
    stopping: Callable[[], bool]
    clock: Callable[[], int] = time.time_ns
    _pressures: list[DiskPressure] = field(default_factory=list)
    _summary: ScratchCleanup | DiskCheck | None = None
    _lines: list[Line] = field(default_factory=list)
    _stored: dict[str, str] = field(default_factory=dict)
    _unstored: set[str] = field(default_factory=set)
    _deliveries: dict[str, Delivery] = field(default_factory=dict)

    def store(self, event: Event) -> None:
        """Note a summary, and a level that could not be stored; `finish` reports them."""
        if isinstance(event, DiskPressure):
            self._pressures.append(event)
        elif isinstance(event, ScratchCleanup | DiskCheck):
            self._summary = event

    def add(self, connection: sqlite3.Connection, events: Sequence[Event]) -> None:
        """Store the message about levels in the transaction that stores the levels."""
        if "level" not in self._on:
            return
        now, pressures = self.clock(), [event for event in events if isinstance(event, DiskPressure)]
        before = _notices(connection.execute(_READ, (self._root,)).fetchall())
        lines, after = level_lines(pressures, before["level"], repeats=self._repeat_secs > 0, now=now)
        self._change_notices(connection, before, {"level": after})
        if lines:
            self._lines = lines
            self._stored = self._add_message(connection, lines, now, self._targets)

    def finish(self, code: ExitCode, problems: Sequence[str], *, has_result: bool) -> int:
        """Store the rest of the report, and send all stored messages.

        `code` and `problems` are those of the run, `has_result` whether the job came to its end.

        Return the number of messages that were neither sent nor stored.
        """
        before = _notices(self._select(_READ, (self._root,)))
        self._store_end(before, *self._news(before, code, problems, has_result=has_result))
        return self._send()

    def _news(
        self, before: Mapping[NoticeKind, Notices], code: ExitCode, problems: Sequence[str], *, has_result: bool
    ) -> tuple[list[Line], dict[NoticeKind, Notices]]:
        """Return the lines about the end of the run, and the notices after them, by kind."""
        now, summary = self.clock(), self._summary
        lines: list[Line] = []
        after: dict[NoticeKind, Notices] = {}
        if self._pressures and "level" in self._on:
            found, after["level"] = level_lines(self._pressures, before["level"], repeats=self._repeat_secs > 0, now=now)
            lines += found
        if "failed" in self._on and (code in _FAILURES or (has_result and code in _SUCCESS)):
            why = " ".join(why_failed(code, summary, problems).split())
            found, after["job"] = job_lines(self.job, code, why, before["job"], root=self._option, repeat_secs=self._repeat_secs, now=now)
            lines += found
        if isinstance(summary, ScratchCleanup) and "cleaned" in self._on:
            lines += cleaned_lines(summary, self._option)
        if isinstance(summary, ScratchCleanup) and "expiring" in self._on and summary.expiring is not None:
            found, after["session"] = expiring_lines(summary, before["session"], self._option, now)
            lines += found
        return lines, after

    def _store_end(self, before: Mapping[NoticeKind, Notices], lines: Sequence[Line], after: Mapping[NoticeKind, Notices]) -> None:
        """Store the message about the end of the run, and its changes of the notices.

        A message about levels that no other run has sent yet becomes part of it.
        """
        if not lines and all(before[kind] == notices for kind, notices in after.items()):
            return
        now = self.clock()
        try:
            with self.state.transaction() as connection:
                self._change_notices(connection, before, after)
                if lines:
                    waiting = [
                        target
                        for target, event_id in self._stored.items()
                        if connection.execute("DELETE FROM outbox WHERE event_id = ?", (event_id,)).rowcount
                    ]
                    self._add_message(connection, [*self._lines, *lines], now, waiting)
                    self._add_message(connection, lines, now, [target for target in self._targets if target not in waiting])
        except StateUnavailableError as error:
            if not lines:
                return
            log.warning("%s: notifications may be sent again", error, extra=STATE)
            if not is_due_without_state(self.job, now, period(self.config.maintenance.schedule.disk_check) * SECOND):
                log.info("the next notification without the state is sent in the first check of an hour")
                return
            for target in self._targets:
                self._delivery(target).store_encoded(self._message(lines, now))
                self._unstored.add(target)

    def _select(self, statement: str, parameters: tuple[str, ...]) -> list[tuple[object, ...]]:
        """Return the rows of a query; none if the state is unreadable, which others log."""
        try:
            with suppress(StateUnavailableError):
                self.state.open()  # the next uses need no check of the file
            return self.state.select(statement, parameters)
        except StateUnavailableError as error:
            log.debug("%s", error)
            return []

    def _send(self) -> int:
        """Send stored messages, each address in its share of time; return the number lost."""
        found = self._select(_READ_TARGETS, ())
        targets = sorted({*self._unstored, *(str(target) for (target,) in found)}, key=_number)
        if targets and (missing := missing_apprise()):
            log.error("notifications need Apprise, the extra arawn-cli[notify]: run %s", missing, extra=persistent("Apprise"))
        end = time.monotonic() + self.config.maintenance.relay.deadline_secs
        lost = 0
        for position, target in enumerate(targets):
            share = max((end - time.monotonic()) / (len(targets) - position), _SHORTEST_SHARE)
            delivery = self._delivery(target)
            delivery.settings = delivery.settings.model_copy(update={"timeout_secs": share, "deadline_secs": share})
            lost += delivery.finish().lost
        return lost

    @property
    def _on(self) -> Sequence[str]:
        return self.config.maintenance.notify.on

    @property
    def _repeat_secs(self) -> int:
        return seconds_of(self.config.maintenance.pressure.repeat_interval)

    @property
    def _root(self) -> str:
        return key_of(self.config.root)

    @property
    def _option(self) -> str:
        return "" if self.config.root_name is None else f" --root {self.config.root_name}"

    @property
    def _targets(self) -> list[str]:
        return [f"{NOTIFY}{address.number}" for address in self.addresses]

    def _delivery(self, target: str) -> Delivery:
        """Return the delivery to an address; the last one gets messages for removed addresses."""
        if target not in self._deliveries:
            address = self.addresses[min(_number(target), len(self.addresses)) - 1]
            outbox = Outbox(self.state, self.config.maintenance.relay.outbox_max_events, target, self._root)
            self._deliveries[target] = Delivery(
                outbox,
                self.config.maintenance.relay,
                lambda: AppriseClient(address, use_proxy=self.config.maintenance.use_proxy),
                self.stopping,
                name=str(address),
            )
        return self._deliveries[target]

    def _message(self, lines: Sequence[Line], now: int) -> OutgoingEvent:
        host = socket.gethostname()
        body = json.dumps(compose(lines, host, self.config.root_name))
        source = f"//{quote(host, safe='')}/arawn-cli"
        return OutgoingEvent(str(uuid4()), "notification", timestamps.render(now), source, body.encode("ascii"))

    def _add_message(self, connection: sqlite3.Connection, lines: Sequence[Line], now: int, targets: Sequence[str]) -> dict[str, str]:
        """Store a message for some addresses, and return its ids by target."""
        messages = {target: self._message(lines, now) for target in targets}
        for target, message in messages.items():
            self._delivery(target).add_encoded(connection, [message])
        return {target: message.event_id for target, message in messages.items()}

    def _change_notices(
        self, connection: sqlite3.Connection, before: Mapping[NoticeKind, Notices], after: Mapping[NoticeKind, Notices]
    ) -> None:
        for kind, notices in after.items():
            gone = [(self._root, kind, subject) for subject in before[kind].keys() - notices.keys()]
            connection.executemany("DELETE FROM notices WHERE root = ? AND kind = ? AND subject = ?", gone)
            new = [(self._root, kind, subject, *astuple(notice)) for subject, notice in (notices.items() - before[kind].items())]
            connection.executemany("INSERT OR REPLACE INTO notices (root, kind, subject, value, notified_at) VALUES (?, ?, ?, ?, ?)", new)


def _number(target: str) -> int:
    return int(target.removeprefix(NOTIFY))


def _notices(rows: Sequence[tuple[object, ...]]) -> dict[NoticeKind, Notices]:
    """Return the notices of rows with the columns of `_READ`, by kind."""
    found: dict[NoticeKind, Notices] = {"level": {}, "job": {}, "session": {}}
    for kind, subject, value, at in cast("Sequence[tuple[NoticeKind, str, str, int]]", rows):
        found[kind][subject] = Notice(value, at)
    return found
