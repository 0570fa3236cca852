"""One run as Cloacina orders it: what its context may say, and the words in which it goes to the process that does it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from arawn_cli.config import Flags
from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.vocabulary import JobName

# What Cloacina's scheduler and its recovery put into each context.
OF_CLOACINA = frozenset(
    {
        "scheduled_time",
        "schedule_id",
        "schedule_timezone",
        "schedule_expression",
        "is_recovery",
        "recovery_attempt",
        "original_execution_id",
    }
)
SUMMARY = "summary"
OUTCOME = "outcome"
_LONGEST = 36_500


class RefusedContextError(ArawnCliError):
    """A context asks for what no run may do; nothing has been touched."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Order:
    """A run of one job, as plain values: the options of its command."""

    job: JobName
    config: str | None
    base_path: str | None
    root: str | None = None
    older_than_days: int | None = None
    dry_run: bool | None = None
    verbose: bool = False
    quiet: bool = False

    @classmethod
    def of(cls, job: JobName, flags: Flags, root: str | None, *, verbose: bool, quiet: bool) -> Order:
        """The order of a job on a named root, or None for the main one, with the options that its service was started with."""
        config = None if flags.config is None else str(flags.config.absolute())
        return cls(job, config, flags.base_path if root is None else None, root, verbose=verbose, quiet=quiet)

    @classmethod
    def from_json(cls, text: str) -> Order:
        """What `to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "job": JobName(values["job"])})

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    def flags(self) -> Flags:
        """What the command would be given."""
        config = None if self.config is None else Path(self.config)
        dry_run = bool(self.dry_run) if self.job is JobName.DISK_CHECK else self.dry_run
        return Flags(config=config, base_path=self.base_path, older_than_days=self.older_than_days, dry_run=dry_run, root=self.root)


def ordered(order: Order, context: Mapping[str, object]) -> Order:
    """An order with what a context overrides: `older_than_days`, `dry_run`, and `base_path` where the order names no root.

    Raises:
        RefusedContextError: it holds anything else, or a value that the command would not take.
    """
    asked = {key: value for key, value in context.items() if key not in OF_CLOACINA}
    fixed = {"base_path": order.root is not None, "older_than_days": order.job is JobName.DISK_CHECK}
    allowed = [key for key in _ALLOWED if not fixed.get(key)]
    for key, value in asked.items():
        if key not in allowed:
            raise RefusedContextError(f"the context holds {key!r}: {', '.join(allowed)} is all that {order.job} takes here")
        if not _fits(key, value):
            raise RefusedContextError(f"the context holds {key} = {value!r}: {_ALLOWED[key]} is allowed")
    return replace(order, **asked)  # type: ignore[arg-type]  # each value was just looked at


_ALLOWED = {
    "base_path": "a path that begins with /",
    "dry_run": "true or false",
    "older_than_days": f"a whole number from 1 to {_LONGEST}",
}


def _fits(key: str, value: object) -> bool:
    if key == "base_path":
        return isinstance(value, str) and value.startswith("/") and "\0" not in value
    if key == "dry_run":
        return isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LONGEST
