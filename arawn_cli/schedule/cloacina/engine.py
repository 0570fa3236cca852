"""Load the Cloacina engine and forward its log."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import sys
from types import ModuleType

from arawn_cli.errors import ArawnCliError, ExitCode

# From a checkout: under this name an index may have another's program.
EXTRA = f"`{shlex.quote(sys.executable)} -m pip install '.[cloacina]'` in a checkout"


GLIBC = (2, 38)


_TIMERS = "`arawn-cli schedule install` has systemd or cron run the jobs"


class EngineError(ArawnCliError):
    """Cloacina, or what it needs, is not there or does not work; nothing has been touched."""

    exit_code = ExitCode.CONFIG


def load_engine() -> ModuleType:
    """Cloacina's Python module.

    Raises:
        EngineError: it is not installed, or cannot be loaded here.
    """
    try:
        return importlib.import_module("cloaca")
    except ImportError as error:
        raise EngineError(why_unloadable(error, _glibc())) from error


def postgres_driver() -> ModuleType:
    """The client of PostgreSQL, which comes with the same extra.

    Raises:
        EngineError: it is not installed, or cannot be loaded here.
    """
    try:
        return importlib.import_module("psycopg")
    except ImportError as error:
        raise EngineError(f"PostgreSQL takes psycopg, which cannot be loaded: {EXTRA} brings it") from error


def why_unloadable(error: ImportError, glibc: tuple[int, ...] | None) -> str:
    """One sentence on an engine that is missing or cannot be loaded, and what to do; `glibc` is the machine's version."""
    missing = isinstance(error, ModuleNotFoundError) and error.name == "cloaca"
    if glibc is not None and glibc < GLIBC:
        needed, found = (".".join(str(part) for part in version) for version in (GLIBC, glibc))
        elsewhere = f"on a newer one, {EXTRA} brings it; here, " if missing else ""
        return f"Cloacina needs glibc {needed}, and this machine has {found}: {elsewhere}{_TIMERS}"
    if missing:
        return f"Cloacina is not installed: {EXTRA} brings it; without it, {_TIMERS}"
    return f"Cloacina cannot be loaded here ({' '.join(str(error).split())}): {_TIMERS}"


def _glibc() -> tuple[int, ...] | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(int(part) for part in version.split(".")) if name == "glibc" else None
    except (ValueError, OSError):
        return None
