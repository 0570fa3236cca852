"""Mounts, links and other things in place of the directories of a root.

No command may report ok about something that it did not count, and nothing outside the root may be
touched.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs_namespaces
from tests.support.places import KINDS, PLACES, Said

NOT_DIRECTORIES = ("link", "dangling", "file", "fifo")
MOUNTS = ("tmpfs", "bind")

CASES = [
    (generation, place, kind)
    for generation, places in PLACES.items()
    for place in places
    for kind in KINDS
    if (place, kind) != ("messages", "tmpfs")
]


@dataclass(frozen=True)
class Expected:
    """The exit code of a cleanup, whether the session goes, and the exit code of `disk-check`."""

    cleanup: int
    removed: bool
    check: int = 0


def expected(generation: str, place: str, kind: str) -> Expected:
    """Return the result that one case must have."""
    if place == "root":
        return Expected(0, removed=True) if kind in ("plain", *MOUNTS, "link") else Expected(78, removed=False, check=78)
    check = 1 if kind in ("link", "dangling") else 0
    if place == "workstreams" and kind in (*NOT_DIRECTORIES, "missing"):
        code = 77 if kind == "missing" else 78
        return Expected(code, removed=False, check=code)
    if place in ("scratch", "sessions", "trash") and kind in NOT_DIRECTORIES:
        return Expected(78, removed=False, check=check)
    if (place, kind) in (("trash", "tmpfs"), ("trash", "bind")):
        return Expected(78, removed=False)
    if place == "messages" and kind in NOT_DIRECTORIES:
        # On main the time of the file counts, whatever is in it, and what is in a session is the
        # agent's.
        is_fine = generation == "main" and kind == "file"
        return Expected(0 if is_fine else 1, removed=is_fine, check=check if generation == "v0" else 0)
    if (generation, place, kind) == ("main", "messages", "bind") or (place in ("session", "inner") and kind in MOUNTS):
        return Expected(0, removed=False)
    if place == "session" and kind != "plain":
        return Expected(0, removed=False, check=check)
    if place == "workstream" and kind in ("link", "dangling"):
        return Expected(1, removed=False, check=1)
    if place == "inner":
        return Expected(0, removed=True)  # a link of the agent is not followed, and goes with the session
    if place in ("scratch", "sessions") and kind == "missing":
        return Expected(0, removed=False)
    return Expected(0, removed=True, check=check)


def run_case(environment: dict[str, str], directory: Path, case: tuple[str, str, str]) -> dict[str, Any]:
    """Run all commands on one case."""
    command = ["unshare", "-m", sys.executable, "-m", "tests.support.places", *case, str(directory)]
    variables = {**environment, "PYTHONPATH": f"{environment['PYTHONPATH']}:{Path(__file__).parents[2]}"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    found["said"] = {name: Said(**said) for name, said in found["said"].items()}
    return found


def check_case(environment: dict[str, str], directory: Path, case: tuple[str, str, str]) -> None:
    """Compare one case with the result that it must have."""
    found, wanted = run_case(environment, directory, case), expected(*case)
    said: dict[str, Said] = found["said"]
    _, place, kind = case
    for name, one in said.items():
        assert one.code in (0, 1, 3, 77, 78), (name, one)
        assert "Traceback" not in one.stderr, (name, one)

    # Cleanup: a dry run says the same, and nothing is lost or touched elsewhere.
    cleanup, dry = said["cleanup"], said["dry run"]
    assert (cleanup.code, dry.code) == (wanted.cleanup, wanted.cleanup), (cleanup, dry)
    for one, actions in ((cleanup, ("deleted", "trashed")), (dry, ("would_delete", "would_trash"))):
        events = [json.loads(line) for line in one.stdout.splitlines()]
        assert [event["action"] in actions for event in events[:-1]] == [wanted.removed] * max(len(events) - 1, 0), one
        assert (len(events) > 1) >= wanted.removed
    assert found["size_after"] >= found["size"]
    _, before, after = found["elsewhere"]
    if kind not in MOUNTS and (place, kind) != ("root", "link"):
        assert after == before
    if cleanup.code in (77, 78):
        assert len(cleanup.stderr.splitlines()) == 1
        assert kind != "link" or "mount --bind" in cleanup.stderr or place == "trash"

    # disk-check, Nagios and the report count everything, or say what they do not count.
    check = said["disk-check"]
    assert check.code == wanted.check, check
    assert said["nagios"].code == (0 if check.code == 0 else 3)
    if check.stdout:
        event = json.loads(check.stdout.splitlines()[-1])
        uncounted = event["not_counted"]
        is_of_session = place == "messages" and case[0] == "main"
        if (place in ("session", "inner", "workstream", "production", "trash") or is_of_session) and kind in MOUNTS:
            assert len(uncounted) == 1
            assert "not counted: " + uncounted[0] in said["nagios"].stdout
            assert "not counted" in said["report"].stdout.lower()
        else:
            assert uncounted == []
        assert (check.code, event["complete"], event["level"]) in ((0, True, "ok"), (1, False, "unknown"))
        if check.code == 0:
            elsewhere = found["elsewhere"][0] if uncounted or (place in ("inner", "messages") and kind == "link") else 0
            in_tmpfs = found["mounted"] if uncounted and kind == "tmpfs" else 0
            assert event["total_usage_bytes"] == found["size"] - elsewhere - in_tmpfs
        assert len(event["mounted"]) == (kind == "tmpfs" and place in ("workstreams", "scratch", "sessions"))
    if check.code:
        assert said["report"].code == check.code, said["report"]

    # doctor fails if a job would.
    findings = [json.loads(line) for line in said["doctor"].stdout.splitlines()]
    status = {finding["check"]: finding["status"] for finding in findings if "check" in finding}
    of_tree = {status.get(name, "ok") for name in ("root", "measuring", "messages", "trash", "database")}
    if wanted.cleanup in (1, 77, 78) or wanted.check:
        assert "fail" in of_tree, findings
    else:
        assert "fail" not in of_tree, findings


# One case in nine: each kind and nearly each place is among them.
@needs_namespaces
@pytest.mark.parametrize("case", CASES[::9], ids="-".join)
def test_no_command_is_ok_about_what_it_did_not_count(environment: dict[str, str], tmp_path: Path, case: tuple[str, str, str]) -> None:
    check_case(environment, tmp_path, case)


@pytest.mark.long
@needs_namespaces
@pytest.mark.parametrize("case", [case for case in CASES if case not in CASES[::9]], ids="-".join)
def test_no_command_is_ok_about_what_it_did_not_count_in_any_case(
    environment: dict[str, str], tmp_path: Path, case: tuple[str, str, str]
) -> None:
    check_case(environment, tmp_path, case)
