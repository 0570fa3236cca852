"""Keep commands of tests away from this machine's accounts, configuration and timers.

Python imports this module at its start if `PYTHONPATH` names its directory, as the fixture
`environment` does.
`bin/` has stand-ins for systemctl(1) and crontab(1).
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_HOME = os.environ.get("HOME", "/nonexistent")
_MACHINE = Path(_HOME, "machine")


def _running_cron() -> object:
    """Return the kind of cron that a test wrote to `machine/cron` in its home; without that file,
    one that works."""
    from arawn_cli.schedule.cron import Daemon

    kind = _MACHINE / "cron"
    return {"none": None, "busybox": Daemon.BUSYBOX}[kind.read_text()] if kind.exists() else Daemon.FULL


_PLACES: dict[str, dict[str, object]] = {
    "arawn_cli.cli.account": {"SYSTEM_FILE": _MACHINE / "config.toml"},
    "arawn_cli.config.loader": {"SYSTEM_FILE": _MACHINE / "config.toml"},
    "arawn_cli.schedule.cron": {"running_cron": _running_cron},
    "arawn_cli.schedule.places": {
        "_SYSTEM_UNITS": _MACHINE / "units",
        "_CRON_DIRECTORY": _MACHINE / "cron.d",
        "SYSTEM_STATE": _MACHINE / "lib",
    },
    "arawn_cli.schedule.systemd": {"_BOOTED": str(_MACHINE / "booted"), "_LINGERING": _MACHINE / "linger"},
}
if (_MACHINE / "slow").exists():  # a test that is no longer scheduled for seconds still answers in time
    _PLACES["arawn_cli.delivery.ping"] = {"_SECS": 30.0, "_STOPPING_SECS": 30.0}

_getpwuid = pwd.getpwuid


def _at_home(user: int) -> pwd.struct_passwd:
    """Return the entry of an account; the current account has the home that `HOME` names."""
    entry = _getpwuid(user)
    return pwd.struct_passwd((*entry[:5], _HOME, entry.pw_shell)) if user == os.getuid() else entry


class _Places(MetaPathFinder):
    """Replaces the directories and the cron of the system, and time limits, in the modules that
    name them."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in _PLACES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for name, place in _PLACES[fullname].items():
                replaced = getattr(module, name)
                setattr(module, name, place)
                for value in vars(module).values():  # defaults of parameters, too
                    defaults = getattr(value, "__kwdefaults__", None) or {}
                    defaults.update({key: place for key, default in defaults.items() if default is replaced})

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


pwd.getpwuid = _at_home
sys.meta_path.insert(0, _Places())
