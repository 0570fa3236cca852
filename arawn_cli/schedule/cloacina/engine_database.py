"""Access Cloacina's database: the registered schedules, the last runs, and locks between machines.

Reading does not start Cloacina, which would begin every run that is due.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Protocol
from urllib.parse import unquote, urlsplit

from arawn_cli.command_events import RunResult
from arawn_cli.delivery.credentials import secret_of
from arawn_cli.errors import ArawnCliError, ConfigurationError, ExitCode
from arawn_cli.sqlite import DatabaseUnreadableError, query

# Only from a checkout: a package index may have another program under this name.
EXTRA = f"`{shlex.quote(sys.executable)} -m pip install '.[cloacina]'` in a checkout"
OUTCOME = "outcome"
"""The key of a task's context that holds `done` or `locked`."""
CREDENTIAL = "cloacina-url"
VARIABLE = "ARAWN_CLOACINA_URL"

_SQLITE = "sqlite://"
_POSTGRES = ("postgres://", "postgresql://")
# With both, each end notices within half a minute that the other is gone.
_CLIENT_OPTIONS = {"connect_timeout": 10, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
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
_UNFINISHED = "SELECT 1 FROM schedule_executions WHERE completed_at IS NULL LIMIT 1"
_TABLES = "SELECT name FROM sqlite_master WHERE name = 'workflow_executions'"


class EngineError(ArawnCliError):
    """Cloacina, its database or psycopg is missing or does not work; no session was touched."""

    exit_code = ExitCode.CONFIG


class Connection(Protocol):
    """The part of psycopg's connection that is used here."""

    def execute(self, statement: str, parameters: tuple[object, ...] = ()) -> Iterable[tuple[object, ...]]:
        """Run one statement. Return its rows."""

    def close(self) -> None:
        """Close the connection. The server releases its locks."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A cron schedule in the database; `next_run` is RFC 3339 in UTC."""

    workflow: str
    cron: str
    enabled: bool
    next_run: str | None


@dataclass(frozen=True, slots=True)
class LastRun:
    """A workflow's newest run that ended: start (RFC 3339, UTC), result, error if it failed."""

    began: str | None
    result: RunResult
    error: str | None


@dataclass(frozen=True, slots=True)
class EngineDatabase:
    """A database by its URL, which may hold a password: neither `str` nor `repr` shows it."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        """Return the URL without user, password and query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{unquote(parts.netloc.rpartition('@')[2])}{parts.path}"

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database, or None for PostgreSQL."""
        return Path(self.url.removeprefix(_SQLITE)) if self.url.startswith(_SQLITE) else None

    def without_secrets(self, error: Exception | str) -> str:
        """Return an error in one line, with the URL and the password in it replaced."""
        text = " ".join(str(error).split())
        passwords = _passwords(self.url)
        for secret in (self.url, *passwords, *map(unquote, passwords)):
            text = text.replace(secret, "***") if secret else text
        return text

    @contextmanager
    def locked(self, name: str, *, wait: bool = False) -> Iterator[Callable[[], bool] | None]:
        """Hold a lock across all machines that share a PostgreSQL.

        The jobs' own locks (flock) do not work across machines: NFS has none for directories. An
        SQLite database belongs to one machine, where they are enough: nothing is locked in it.

        Yield a function that returns whether the lock is still held, which it is not once the
        connection is lost. Yield None if another machine has the lock, unless `wait` is set.

        Raises:
            EngineError: the database cannot be used.
        """
        if self.file is not None:
            yield lambda: True
            return
        # A signed 64-bit number, which differs from those of other programs in the same database.
        key = int.from_bytes(hashlib.sha256(f"arawn-cli\0{name}".encode()).digest()[:8], "big", signed=True)
        with self._connected() as connection:
            ((taken,),) = connection.execute("SELECT pg_advisory_lock(%s)" if wait else "SELECT pg_try_advisory_lock(%s)", (key,))

            def is_held() -> bool:
                try:
                    return list(connection.execute("SELECT 1")) != []
                except postgres_driver().Error:
                    return False

            yield is_held if wait or taken else None

    def schedules(self) -> list[Registered]:
        """Return all cron schedules, other programs' too; none without a database.

        Raises:
            EngineError: the database cannot be read.
        """
        rows = self._select(_SCHEDULES)
        return [Registered(str(name), str(cron), bool(enabled), timestamp_of(next_run)) for name, cron, enabled, next_run in rows]

    def last_runs(self) -> dict[str, LastRun]:
        """Return the newest run of each workflow that ended, by the workflow's name.

        Raises:
            EngineError: the database cannot be read.
        """
        found = {}
        for name, status, began, error, context in self._select(_ENDED):
            try:
                outcome = json.loads(str(context)).get(OUTCOME)
            except (ValueError, AttributeError):  # no context, or no object
                outcome = None
            result = RunResult.LOCKED if outcome == RunResult.LOCKED else RunResult.SUCCESS
            failure = str(error or "failed") if status == "Failed" else None
            found[str(name)] = LastRun(timestamp_of(began), RunResult.FAILED if failure else result, failure)
        return found

    def has_unfinished_runs(self) -> bool:
        """Return whether a scheduled run has no recorded end.

        Raises:
            EngineError: the database cannot be read.
        """
        return bool(self._select(_UNFINISHED))

    def _select(self, statement: str) -> list[tuple[object, ...]]:
        if self.file is not None:
            try:
                return query(self.file, statement, (), text=str) if self.file.exists() and query(self.file, _TABLES, ()) else []
            except (DatabaseUnreadableError, OSError) as error:
                raise EngineError(f"the database {self} cannot be read: {error}") from error
        with self._connected() as connection:
            try:
                return list(connection.execute(statement))
            except postgres_driver().errors.UndefinedTable:
                return []

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Connect to PostgreSQL.

        Raises:
            EngineError: psycopg is missing, or the server cannot be reached or reports an error.
        """
        driver = postgres_driver()
        try:
            with closing(driver.connect(self.url, autocommit=True, options=_SERVER_OPTIONS, **_CLIENT_OPTIONS)) as connection:
                yield connection
        except driver.Error as error:
            raise EngineError(f"the database {self} cannot be used: {self.without_secrets(error)}") from error


def database_from(option: str | None, environment: Mapping[str, str], state_directory: Path) -> EngineDatabase:
    """Return the database to use.

    The first of these: `--database`, the file `cloacina-url` in `$CREDENTIALS_DIRECTORY`
    (systemd.exec(5)), `$ARAWN_CLOACINA_URL`, an SQLite file in the state directory.

    Raises:
        ConfigurationError: the URL is not one of Cloacina's, or has a password on the command line.
    """
    secret = secret_of(environment, CREDENTIAL, VARIABLE) if option is None else None
    if option is not None:
        url, source = option, "--database"
    elif secret is not None:
        url, source = secret.value, f"the credential {CREDENTIAL} or ${VARIABLE}"
    else:
        return EngineDatabase(f"{_SQLITE}{state_directory.absolute() / 'cloacina.db'}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{source} is not a URL") from error
    if option is not None and any(_passwords(url)):
        raise ConfigurationError(
            "--database holds a password, which every account can read in the list of processes: "
            f"put the URL into ${VARIABLE} or into the credential {CREDENTIAL}"
        )
    # A password with unescaped characters would be split in the wrong place, and part of it shown.
    if parts.fragment or "#" in url or url.count("@") > parts.netloc.count("@") or parts.netloc.count("@") > 1:
        raise ConfigurationError(f"{source} is ambiguous: in user and password write / as %2F, ? as %3F, # as %23 and @ as %40")
    if url.startswith(_POSTGRES) or (url.startswith(f"{_SQLITE}/") and "?" not in url):
        return EngineDatabase(url)
    raise ConfigurationError(f"{source} is not a database URL: use sqlite:///PATH or postgresql://USER@HOST/NAME")


def postgres_driver() -> ModuleType:
    """Import the client of PostgreSQL.

    Raises:
        EngineError: it is missing, or does not load here.
    """
    try:
        return importlib.import_module("psycopg")
    except ImportError as error:
        raise EngineError(f"PostgreSQL needs psycopg, which cannot be loaded: install {EXTRA}") from error


def timestamp_of(value: object) -> str | None:
    """Return a time of SQLite or PostgreSQL, both in UTC, as RFC 3339 with whole seconds."""
    return None if value is None else f"{str(value)[:19].replace(' ', 'T')}Z"


def _passwords(url: str) -> list[str]:
    """Return the passwords in a URL as they are written there."""
    parts = urlsplit(url)
    return [parts.password or "", *re.findall(r"password=([^&]+)", parts.query)]
