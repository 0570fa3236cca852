"""Settings of the files in contrib/.

`python -m tests.support.contrib_settings` renders them again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from arawn_cli.config.schema import Maintenance
from arawn_cli.schedule.cron import cron_block, cron_file
from arawn_cli.schedule.managed_files import with_header
from arawn_cli.schedule.places import Scope
from arawn_cli.schedule.settings import Account, Settings
from arawn_cli.schedule.systemd import units

CONTRIB = Path(__file__).parents[2] / "contrib"

SYSTEM = Settings(
    scope=Scope.SYSTEM,
    account=Account("arawn", "/var/lib/arawn"),
    command=("/usr/local/bin/arawn-cli",),
    options=("--config", "/etc/arawn/config.toml"),
    root=Path("/srv/arawn"),
    reads=(Path("/usr/local"), Path("/etc/arawn/config.toml")),
    state=None,
    metrics=None,
    token_file=None,
    network="any",
    nice=Maintenance().nice,
    io_class=Maintenance().io_class,
    cleanup=Maintenance().schedule.scratch_cleanup,
    check=Maintenance().schedule.disk_check,
    host="",
    logger="/usr/bin/logger",
    namespaces=False,
    owner=0,
)

_HOME = "/home/arawn"
USER = replace(
    SYSTEM,
    scope=Scope.USER,
    account=Account("arawn", _HOME),
    command=(f"{_HOME}/.local/bin/arawn-cli",),
    options=(),
    root=Path(_HOME, ".arawn"),
    reads=(Path(_HOME),),
    state=Path(_HOME, ".local/state/arawn-cli"),
    namespaces=True,
)


def contrib_files() -> dict[Path, str]:
    """Return every rendered file of contrib/, with the first line that an installed one has."""
    found = {CONTRIB / "systemd" / settings.scope / name: text for settings in (SYSTEM, USER) for name, text in units(settings).items()}
    found[CONTRIB / "cron" / "arawn-cli"] = cron_file(SYSTEM)
    return {**{path: with_header(text) for path, text in found.items()}, CONTRIB / "cron" / "crontab.user": cron_block(USER)}


if __name__ == "__main__":
    for path, text in contrib_files().items():
        path.write_text(text)
