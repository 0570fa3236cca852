"""Crontab lines are accepted by cron, and log or mail as they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from arawn_cli.schedule.cron import cron_block, cron_file
from arawn_cli.schedule.install import bodies_of
from arawn_cli.schedule.settings import Scheduler
from tests.conftest import needs
from tests.support.contrib_settings import CONTRIB, SYSTEM, USER

needs_crontab = needs(shutil.which("crontab") is not None, "crontab")


@needs_crontab
def test_cron_accepts_the_crontab_lines(tmp_path: Path) -> None:
    user = CONTRIB / "cron" / "crontab.user"
    system = (CONTRIB / "cron" / "arawn-cli").read_text()
    without_user = tmp_path / "crontab"
    without_user.write_text(re.sub(r"^(\S+ \S+ \S+ \S+ \S+) arawn ", r"\1 ", system, flags=re.MULTILINE))
    for path in (user, without_user):
        subprocess.run(["crontab", "-n", str(path)], check=True, capture_output=True)
        assert path.read_text().endswith("\n")


def test_lines_of_the_system_name_the_account_and_those_of_an_account_do_not() -> None:
    time = r"\S+ \S+ \S+ \S+ \S+"
    assert len(re.findall(rf"^{time} arawn /usr/local/bin/arawn-cli ", cron_file(SYSTEM), re.MULTILINE)) == 2
    assert len(re.findall(rf"^{time} /home/arawn/.local/bin/arawn-cli ", cron_block(USER), re.MULTILINE)) == 2


def test_results_go_to_the_system_log_if_there_is_a_logger() -> None:
    assert cron_block(USER).count("--format json | /usr/bin/logger -t arawn-") == 2
    assert cron_block(replace(USER, logger=None)).count("--unless-running --format none\n") == 2


def test_each_named_root_has_its_own_file() -> None:
    assert set(bodies_of(Scheduler.CRON, replace(SYSTEM, root_name="lab"))) == {"arawn-cli-lab"}
