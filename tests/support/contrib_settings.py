"""What the files in contrib/ are rendered from; `python -m tests.contrib_settings` writes them anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from arawn_cli.config.schema import Maintenance
from arawn_cli.schedule.cron import cron_block, cron_file
from arawn_cli.schedule.managed_files import sealed
from arawn_cli.schedule.settings import Account, Reach, Scope, Settings
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
    reach=Reach.ANYWHERE,
    nice=Maintenance().nice,
    io_class=Maintenance().io_class,
    cleanup=Maintenance().schedule.scratch_cleanup,
    check=Maintenance().schedule.disk_check,
    host="",
    logger="/usr/bin/logger",
    namespaces=False,
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


_COMMAND = "/usr/local/bin/arawn-cli {} --config /etc/arawn/config.toml"
_IN_PLACE_OF = {
    "# To change it: [maintenance.schedule], or `systemctl edit`. An edit of this file is noticed, and asked about.": (
        "# To install by hand, with systemctl enable --now arawn-cloacina; to change it: [maintenance.schedule], or `systemctl edit`."
    ),
    "Description=Remove inactive scratch sessions of Arawn": "Description=Both jobs of arawn-cli as workflows of Cloacina",
    "After=time-sync.target": "After=time-sync.target network-online.target",
    "OnFailure=arawn-notify@%n.service": "Wants=network-online.target",
    "Type=oneshot": "Type=exec",
    f"ExecStart={_COMMAND.format('scratch-cleanup')} --unless-running": f"ExecStart={_COMMAND.format('schedule serve --cloacina')}",
    "# 75 says that another run was at work, which is no failure.": (
        "# Ending, it begins no more runs and waits for those in hand; a second signal would end these."
    ),
    "SuccessExitStatus=75": "KillMode=mixed",
    "TimeoutStartSec=6h": "TimeoutStopSec=6h\nRestart=on-failure\nRestartSec=30",
    "ProtectHome=yes": (
        "# PostgreSQL, where several machines share the runs: the URL with its password, from a file that only root reads.\n"
        "#LoadCredential=cloacina-url:/etc/arawn/cloacina.url\n"
        "# Named roots: ReadWritePaths= of each, in a drop-in (`systemctl edit`).\n"
        "ProtectHome=yes"
    ),
}


def _serving(unit: str) -> str:
    """The service for `schedule serve --cloacina`, which is installed by hand: that of cleanup, with the same confinement."""
    lines = unit.splitlines()
    missing = _IN_PLACE_OF.keys() - set(lines)
    if missing:
        raise ValueError(f"the service of cleanup has changed: {missing}")
    return "\n".join([*(_IN_PLACE_OF.get(line, line) for line in lines), "", "[Install]", "WantedBy=multi-user.target", ""])


def contrib_files() -> dict[Path, str]:
    """Every rendered file of contrib/, sealed where an installed one is."""
    found = {CONTRIB / "systemd" / settings.scope / name: text for settings in (SYSTEM, USER) for name, text in units(settings).items()}
    found[CONTRIB / "cron" / "arawn-cli"] = cron_file(SYSTEM)
    serving = _serving(units(SYSTEM)["arawn-scratch-cleanup.service"])
    unsealed = {CONTRIB / "systemd" / "system" / "arawn-cloacina.service": serving, CONTRIB / "cron" / "crontab.user": cron_block(USER)}
    return {**{path: sealed(text) for path, text in found.items()}, **unsealed}


if __name__ == "__main__":
    for path, text in contrib_files().items():
        path.write_text(text)
