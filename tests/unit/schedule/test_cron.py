"""Crontab lines are accepted by cron, log or mail as they should, and leave the user's lines
alone."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arawn_cli.command_events import Condition
from arawn_cli.schedule.cron import CrontabStore, Daemon, MarkersError, cron_block, cron_file, running_cron
from arawn_cli.schedule.install import bodies_of
from arawn_cli.schedule.managed_files import ScheduleError
from arawn_cli.schedule.places import Scheduler
from arawn_cli.schedule.settings import logger_in
from tests.conftest import needs, needs_namespaces, needs_root, needs_setpriv
from tests.support.contrib_settings import CONTRIB, SYSTEM, USER

needs_crontab = needs(shutil.which("crontab") is not None, "crontab")


@needs_root
@needs_setpriv
def test_only_a_process_of_root_is_cron() -> None:
    before = running_cron()
    with tempfile.TemporaryDirectory(prefix="arawn-public-") as directory:
        program = shutil.copy("/bin/sleep", Path(directory, "cron"))
        Path(directory).chmod(0o755)
        for user, expected in ((5, before), (0, Daemon.FULL)):
            prefix = ["setpriv", f"--reuid={user}", "--regid=0", "--clear-groups"]
            with subprocess.Popen([*prefix, program, "60"]) as process:
                while Path(f"/proc/{process.pid}/comm").read_text() != "cron\n":
                    assert process.poll() is None
                assert running_cron() is expected
                process.kill()


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
    assert cron_block(USER).count("--format json | /usr/bin/logger --size 128KiB -t arawn-") == 2
    without = cron_block(replace(USER, logger=None))
    assert without.count("--unless-running --format none\n") == 2
    assert "Results are not logged" in without


def test_a_logger_that_cuts_events_is_not_used(tmp_path: Path) -> None:
    assert logger_in(str(tmp_path)) is None
    (tmp_path / "busybox").write_text("#!/bin/sh\n")
    (tmp_path / "busybox").chmod(0o755)
    (tmp_path / "logger").symlink_to("busybox")
    assert logger_in(str(tmp_path)) is None
    (tmp_path / "logger").unlink()
    (tmp_path / "busybox").rename(tmp_path / "logger")
    assert logger_in(str(tmp_path)) == str(tmp_path / "logger")


@needs_namespaces
@needs(Path("/usr/bin/logger").exists(), "logger")
@settings(max_examples=10)
@given(st.lists(st.integers(1, 120_000), min_size=1, max_size=4))
def test_events_of_any_size_arrive_whole_in_the_log(sizes: list[int]) -> None:
    command = next(line for line in cron_block(USER).splitlines() if "disk-check" in line).rpartition(" | ")[2]
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(f"{directory}/log")
        log.settimeout(10)
        mounted = f"mount -t tmpfs none /dev && ln -s {directory}/log /dev/log && exec {command}"
        with subprocess.Popen(["unshare", "-m", "sh", "-c", mounted], stdin=subprocess.PIPE) as logger:
            assert logger.stdin is not None
            logger.stdin.write(b"".join(b'{"x":"%s"}\n' % (b"y" * size) for size in sizes))
            logger.stdin.close()
            received = [log.recv(1 << 20) for _ in sizes]
    assert [message.partition(b"arawn-disk-check: ")[2] for message in received] == [b'{"x":"%s"}' % (b"y" * size) for size in sizes]


def test_each_named_root_has_its_own_file() -> None:
    assert set(bodies_of(Scheduler.CRON, replace(SYSTEM, root_name="lab"))) == {"arawn-cli-lab"}


BLOCK = "# BEGIN arawn-cli schedule: touched\n* * * * * x\n# END arawn-cli schedule\n"


class Crontab(CrontabStore):
    """A crontab whose text changes each time that it is read, as far as there are more texts."""

    texts: ClassVar[list[str | None]] = []

    def _crontab(self) -> str | None:
        return self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]


@pytest.mark.parametrize("lines", [BLOCK[:-27], BLOCK[36:], BLOCK + BLOCK], ids=["no-end", "no-begin", "twice"])
def test_lines_that_would_run_in_addition_to_the_block_are_an_error(lines: str) -> None:
    Crontab.texts = [lines]
    crontab = Crontab("me")
    for query in (lambda: crontab.read("crontab"), crontab.changes_to_remove, lambda: crontab.changes_to_install({"crontab": "x\n"})):
        with pytest.raises(MarkersError, match="correct it with crontab -e"):
            query()


def test_a_block_around_the_block_of_another_root_is_an_error() -> None:
    inner = BLOCK.replace("schedule", "schedule of root lab")
    begin, rest = BLOCK.split("\n", 1)
    Crontab.texts = [f"{begin}\n{inner}{rest}"]
    with pytest.raises(MarkersError, match="no other block between"):
        Crontab("me").changes_to_remove()
    assert Crontab("me", "lab").read("crontab") == "* * * * * x\n"
    Crontab.texts = [BLOCK + inner]
    assert [(Crontab("me", name).changes_to_remove()[0].after) for name in (None, "lab")] == [inner, BLOCK]


def test_a_block_with_other_line_ends_is_found_and_foreign() -> None:
    Crontab.texts = [BLOCK.replace("\n", "\r\n")]
    (change,) = Crontab("me").changes_to_install({"crontab": "x\n"})
    assert (change.condition, change.after and change.after.count("# BEGIN")) == (Condition.FOREIGN, 1)


def test_a_last_line_without_an_end_stays_a_line() -> None:
    Crontab.texts = ["1 1 * * * mine"]
    (change,) = Crontab("me").changes_to_install({"crontab": "x\n"})
    assert change.after is not None
    assert change.after.startswith("1 1 * * * mine\n# BEGIN")


def test_a_crontab_that_changed_in_the_meantime_is_kept() -> None:
    Crontab.texts = ["mine\n", "mine, and more\n"]
    (change,) = Crontab("me").changes_to_install({"crontab": "x\n"})
    with pytest.raises(ScheduleError, match="changed in the meantime"):
        Crontab("me").apply([change])
