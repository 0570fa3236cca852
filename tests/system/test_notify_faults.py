"""Kill a run, or the process that sends for it, at a system call: each message arrives once or
twice."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import needs_strace
from tests.support.notify_servers import SERVERS, NotifyServer
from tests.support.notify_site import OVER, NotifySite, site

__all__ = ["site"]

pytestmark = needs_strace

# What stores a message, starts Apprise, sends and takes the answer, and removes the message.
CALLS = ("pwrite64", "fdatasync", "write", "vfork", "clone3", "wait4", "connect", "sendto", "recvfrom")
SAMPLE = 8


@pytest.fixture(params=sorted(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[NotifyServer]:
    found = SERVERS[request.param]()
    yield found
    found.close()


def traced(site: NotifySite, log: Path, *options: str) -> str:
    """Run a check under strace, and return its log."""
    log.unlink(missing_ok=True)
    site.check(prefix=("strace", "-f", "-o", str(log), *options), traced=True, timeout=300)
    return log.read_text()


def steps(log: str) -> list[tuple[str, int]]:
    """Return each call and its number within the process that made it most often."""
    found = Counter(re.findall(r"^(\d+) +(\w+)\(", log, re.MULTILINE))
    most: Counter[str] = Counter()
    for (_process, call), number in found.items():
        most[call] = max(most[call], number)
    return [(call, number + 1) for call, count in sorted(most.items()) for number in range(count)]


def kill_at(site: NotifySite, server: NotifyServer, call: str, number: int, log: Path) -> bool:
    """Kill a check of a new state at a step, let two others follow, and return whether anything was
    killed."""
    server.messages.clear()
    shutil.rmtree(site.state, ignore_errors=True)
    killed = "killed by SIGKILL" in traced(site, log, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
    assert [site.check().code, site.check().code] == [0, 0]
    assert [title.partition(": ")[2] for title, _ in server.texts] in (
        ["My blog is critical, 2.9 KiB of 1KiB"],
        ["My blog is critical, 2.9 KiB of 1KiB"] * 2,
    ), (call, number)
    return killed


def all_steps(site: NotifySite, server: NotifyServer, log: Path) -> list[tuple[str, int]]:
    site.address(server.url)
    site.draft.write_bytes(bytes(OVER))
    found = steps(traced(site, log, "-e", f"trace={','.join(CALLS)}"))
    assert {call for call, _ in found} >= {"pwrite64", "write", "wait4", "connect"}
    return found


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_sends_loses_no_message(site: NotifySite, server: NotifyServer, tmp_path: Path) -> None:
    chosen = random.sample(all_steps(site, server, tmp_path / "log"), SAMPLE)
    assert sum(kill_at(site, server, call, number, tmp_path / "log") for call, number in chosen) > SAMPLE // 2


@pytest.mark.long
def test_a_run_that_is_killed_at_any_step_loses_no_message(site: NotifySite, server: NotifyServer, tmp_path: Path) -> None:
    for call, number in all_steps(site, server, tmp_path / "log"):
        kill_at(site, server, call, number, tmp_path / "log")
