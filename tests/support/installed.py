"""The program on the private machine: configuration, sessions, timers, and changed files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arawn_cli.timestamps import DAY
from tests.support.machine import COMMAND, ROOT, Machine
from tests.support.tree import set_age

ARAWN = 1500
FILE = "/etc/arawn/config.toml"
UNITS = "/etc/systemd/system"
_ROOT_CONFIG = os.path.expanduser("~root/.config")  # below it, browsers of other tests write at the same time
WATCHED = (
    "/etc",
    "/var/lib/systemd",
    "/var/lib/arawn-cli",
    "/var/spool/cron",
    "/home/arawn",
    f"{_ROOT_CONFIG}/systemd",
    f"{_ROOT_CONFIG}/arawn",
)


@pytest.fixture(autouse=True)
def clean(machine: Machine) -> Iterator[None]:
    """A configuration with timers far away, an empty tree, and afterwards nothing installed."""
    configure(machine)
    yield
    # systemd makes the state directory of a service that starts now.
    machine.run("systemctl", "stop", "arawn-*.timer", "arawn-*.service")
    for flags in (("--systemd",), ("--cron",)):
        machine.output(COMMAND, "schedule", "remove", *flags, "--system", "--yes", "--force", "--quiet")
    machine.output(
        "sh",
        "-c",
        f"rm -rf {ROOT}/workstreams/scratch/sessions/* /var/lib/arawn-cli /home/arawn/.local {UNITS}/arawn-*.d; chmod o-w {ROOT}",
    )


def configure(machine: Machine, text: str = "", root: str = ROOT) -> None:
    machine.path(FILE).write_text(f'[paths]\nbase_path = "{root}"\n{text}')


def session(machine: Machine, name: str, age_days: float) -> Path:
    directory = machine.path(f"{ROOT}/workstreams/scratch/sessions/{name}")
    directory.mkdir()
    (directory / "file").write_bytes(b"x" * 1000)
    set_age(directory, time.time_ns() - int(age_days * DAY))
    for path in (directory, directory / "file"):
        os.chown(path, ARAWN, ARAWN)
    return directory


def install(machine: Machine, *flags: str, user: str | None = None) -> None:
    """Install timers, or lines for a cron that does not run yet, which is exit code 1."""
    done = machine.run(COMMAND, "schedule", "install", "--yes", *flags, user=user)
    assert (done.returncode, "cron is not running" in done.stderr) == ((1, True) if "--cron" in flags else (0, False)), done


def files(machine: Machine) -> dict[str, tuple[object, ...]]:
    """Return mode, owner and content of everything where an installation could leave something."""
    found: dict[str, tuple[object, ...]] = {}
    for top in WATCHED:
        for directory, _, names in os.walk(machine.path(top)):
            for path in (directory, *(os.path.join(directory, name) for name in names)):
                status = os.lstat(path)
                content = os.readlink(path) if os.path.islink(path) else Path(path).read_bytes() if os.path.isfile(path) else None
                found[path] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


def last_event(machine: Machine, match: str, kind: str) -> dict[str, object]:
    messages = [str(entry["MESSAGE"]) for entry in machine.journal(match)]
    events = [json.loads(message) for message in messages if message.startswith("{")]
    return next(event for event in reversed(events) if event["type"] == kind)


def show(machine: Machine, unit: str, name: str) -> str:
    return machine.output("systemctl", "show", f"--property={name}", "--value", unit).strip()


@contextmanager
def standing_in(machine: Machine, directory: str) -> Iterator[None]:
    process = machine.start("sh", "-c", f"cd {directory} && echo there && exec sleep 60", user="arawn")
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    try:
        yield
    finally:
        process.kill()
        machine.run("pkill", "-x", "sleep")
        process.wait()
