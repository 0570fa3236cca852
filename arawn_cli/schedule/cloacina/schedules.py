"""Cloacina's database: where it is, who knows the way in, and what it remembers.

Sources, first wins: `--database`, the file `cloacina-url` in `$CREDENTIALS_DIRECTORY` (systemd.exec(5)), `$ARAWN_CLOACINA_URL`,
and SQLite in the state directory. Reading it does not start Cloacina, which would take over what is due.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from arawn_cli.delivery.credentials import secret_of
from arawn_cli.errors import ConfigurationError
from arawn_cli.schedule.cloacina.engine import EngineError, postgres_driver
from arawn_cli.sqlite import DatabaseUnreadableError, query

CREDENTIAL = "cloacina-url"


VARIABLE = "ARAWN_CLOACINA_URL"


FILE = "cloacina.db"


_SQLITE = "sqlite://"


_POSTGRES = ("postgres://", "postgresql://")


_SOCKET_OPTIONS = {"connect_timeout": 10, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}


_SERVER_OPTIONS = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"


_SCHEDULES = "SELECT workflow_name, cron_expression, enabled, next_run_at FROM schedules WHERE schedule_type = 'cron'"


_ENDED = """
SELECT w.workflow_name, w.status, w.started_at, t.last_error, c.value FROM workflow_executions w
JOIN (SELECT workflow_name, MAX(created_at) AS newest FROM workflow_executions
      WHERE status IN ('Completed', 'Failed') GROUP BY workflow_name) n
  ON n.workflow_name = w.workflow_name AND n.newest = w.created_at
LEFT JOIN task_executions t ON t.workflow_execution_id = w.id
LEFT JOIN contexts c ON c.id = w.context_id
"""


_UNFINISHED = """
SELECT s.workflow_name, e.scheduled_time FROM schedule_executions e JOIN schedules s ON s.id = e.schedule_id WHERE e.completed_at IS NULL
"""


_TABLES = "SELECT name FROM sqlite_master WHERE name = 'workflow_executions'"


class Cursor(Protocol):
    """What is used of psycopg's cursor."""

    def fetchall(self) -> list[tuple[object, ...]]:
        """The rows of an answer."""
        ...


class Connection(Protocol):
    """What is used of psycopg's connection."""

    def execute(self, statement: str, parameters: tuple[object, ...] = ()) -> Cursor:
        """Asks the server."""
        ...

    def close(self) -> None:
        """Ends it, and gives back its locks."""
        ...


@dataclass(frozen=True, slots=True)
class Registered:
    """A cron schedule of the database; `next_run` is RFC 3339 in UTC."""

    workflow: str
    cron: str
    enabled: bool
    next_run: str | None


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run of a workflow that ended: when it began, RFC 3339 in UTC, its error if it failed, and its context."""

    began: str
    error: str | None
    context: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class EngineDatabase:
    """A database by its URL, which may hold a password and is shown by no representation."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        """The URL without user, password and query."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{unquote(host)}{parts.path}"

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database, or None for PostgreSQL."""
        return Path(self.url.removeprefix(_SQLITE)) if self.url.startswith(_SQLITE) else None

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        return "postgresql" if self.file is None else "sqlite"

    def without_secrets(self, text: str) -> str:
        """A text without the URL and its password, for an error that repeats them."""
        password = _password(self.url)
        for secret in (self.url, password, unquote(password)):
            text = text.replace(secret, "***") if secret else text
        return text

    def connect(self) -> Connection:
        """A connection to PostgreSQL on which both ends notice within half a minute that the other is gone.

        Raises:
            EngineError: there is no driver, or no way in.
        """
        driver = postgres_driver()
        try:
            connection: Connection = driver.connect(self.url, autocommit=True, options=_SERVER_OPTIONS, **_SOCKET_OPTIONS)
        except driver.Error as error:
            raise EngineError(f"the database {self} cannot be reached: {self.without_secrets(_line(error))}") from error
        return connection

    def schedules(self) -> list[Registered]:
        """The cron schedules, those of others included; none where the database is not there yet.

        Raises:
            EngineError: it cannot be read.
        """
        rows = self._select(_SCHEDULES)
        return [Registered(str(name), str(cron), bool(enabled), instant_of(next_run)) for name, cron, enabled, next_run in rows]

    def last_runs(self) -> dict[str, LastRun]:
        """The newest run of each workflow that ended.

        Raises:
            EngineError: it cannot be read.
        """
        found = {}
        for name, status, began, error, context in self._select(_ENDED):
            told = str(error or "failed") if status == "Failed" else None
            found[str(name)] = LastRun(instant_of(began) or "", told, _context(context))
        return found

    def unfinished(self) -> set[tuple[str, str | None]]:
        """The runs that the schedules began and whose end is not recorded, by workflow and when they were due.

        Raises:
            EngineError: it cannot be read.
        """
        return {(str(workflow), instant_of(due)) for workflow, due in self._select(_UNFINISHED)}

    def _select(self, statement: str) -> list[tuple[object, ...]]:
        if self.file is None:
            return self._select_postgres(statement)
        try:
            return query(self.file, statement, (), text=str) if self.file.exists() and query(self.file, _TABLES, ()) else []
        except (DatabaseUnreadableError, OSError) as error:
            raise EngineError(f"the database {self} cannot be read: {error}") from error

    def _select_postgres(self, statement: str) -> list[tuple[object, ...]]:
        driver = postgres_driver()
        with closing(self.connect()) as connection:
            try:
                return list(connection.execute(statement).fetchall())
            except driver.errors.UndefinedTable:
                return []
            except driver.Error as error:
                raise EngineError(f"the database {self} cannot be read: {self.without_secrets(_line(error))}") from error


def database_from(option: str | None, environment: Mapping[str, str], state_directory: Path) -> EngineDatabase:
    """The database that the command line, a credential or the environment names, else the one in the state directory.

    Raises:
        ConfigurationError: it is none of Cloacina's, or its password stands on the command line.
    """
    if option is not None:
        if _password(option):
            raise ConfigurationError(
                "--database holds a password, which every account can read in the list of processes: "
                f"put the URL into ${VARIABLE} or into the credential {CREDENTIAL}"
            )
        return _checked(option, "--database")
    secret = secret_of(environment, CREDENTIAL, VARIABLE)
    if secret is not None:
        return _checked(secret.value, f"the credential {CREDENTIAL} or ${VARIABLE}")
    return EngineDatabase(f"{_SQLITE}{state_directory.absolute() / FILE}")


def _checked(url: str, source: str) -> EngineDatabase:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{source} is no URL") from error
    if parts.fragment or "#" in url or url.count("@") > parts.netloc.count("@") or parts.netloc.count("@") > 1:
        raise ConfigurationError(f"{source} is ambiguous: in user and password / is written as %2F, ? as %3F, # as %23 and @ as %40")
    if url.startswith(_POSTGRES) or (url.startswith(f"{_SQLITE}/") and "?" not in url):
        return EngineDatabase(url)
    raise ConfigurationError(f"{source} names no database: sqlite:///PATH or postgresql://USER@HOST/NAME is allowed")


def _password(url: str) -> str:
    """The password of a URL as it stands there, or nothing."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url if "@" in url else ""
    named = parse_qs(parts.query)
    return parts.password or named.get("password", named.get("sslpassword", [""]))[0]


def instant_of(value: object) -> str | None:
    """A time as SQLite and PostgreSQL keep it, both in UTC, to the second."""
    return None if value is None else f"{str(value)[:19].replace(' ', 'T')}Z"


def _context(value: object) -> Mapping[str, object]:
    try:
        found = json.loads(str(value))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
