"""The units and crontab files are what systemd and cron accept."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import COMMAND, needs

CONTRIB = Path(__file__).parents[1] / "contrib"
UNITS = sorted(path for path in (CONTRIB / "systemd").rglob("*") if path.is_file())
needs_systemd = needs(shutil.which("systemd-analyze") is not None, "systemd-analyze")
needs_crontab = needs(shutil.which("crontab") is not None, "crontab")


def test_a_service_and_a_timer_for_each_job_in_both_flavours() -> None:
    jobs = {f"arawn-{job}.{kind}" for job in ("scratch-cleanup", "disk-check") for kind in ("service", "timer")}
    assert {path.name for path in UNITS if path.parent.name == "system"} == jobs
    assert {path.name for path in UNITS if path.parent.name == "user"} == jobs


@needs_systemd
@pytest.mark.parametrize("flavour", ["system", "user"])
def test_systemd_verifies_the_units(flavour: str, tmp_path: Path) -> None:
    copies = []
    for unit in UNITS:
        if unit.parent.name == flavour:
            copy = tmp_path / unit.name
            copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={COMMAND}", unit.read_text(), flags=re.MULTILINE))
            copies.append(str(copy))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--{flavour}", *copies],
        capture_output=True,
        text=True,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("timer", [path for path in UNITS if path.suffix == ".timer"], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_calendars_are_daily_and_every_five_minutes(timer: Path) -> None:
    calendar = re.search(r"^OnCalendar=(.*)$", timer.read_text(), re.MULTILINE)
    assert calendar
    shown = subprocess.run(["systemd-analyze", "calendar", calendar[1]], capture_output=True, text=True, check=True).stdout
    assert ("*-*-* 00:00:00" if "cleanup" in timer.name else "*-*-* *:00/5:00") in shown


@needs_crontab
def test_cron_accepts_the_crontab_lines(tmp_path: Path) -> None:
    user = CONTRIB / "cron" / "crontab.user"
    system = (CONTRIB / "cron" / "arawn-cli").read_text()
    without_user = tmp_path / "crontab"
    without_user.write_text(re.sub(r"^(\S+ \S+ \S+ \S+ \S+) arawn ", r"\1 ", system, flags=re.MULTILINE))
    for path in (user, without_user):
        subprocess.run(["crontab", "-n", str(path)], check=True, capture_output=True)
        assert path.read_text().endswith("\n")
