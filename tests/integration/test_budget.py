"""Budgets and the trash, as the installed command works with them on real filesystems."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import cast

import pytest

from tests.conftest import COMMAND, RunCommand, needs_namespaces
from tests.support.cleanup import clean
from tests.support.main_tree import MainTree, session_id
from tests.support.tree import SampleTree

KIB, MIB = 1024, 1024**2
FILLS = {
    "bytes": "head -c 100m /dev/zero > workstreams/thesis/fill",
    "inodes": "for n in $(seq 500); do > workstreams/thesis/f$n || break; done",
}


@needs_namespaces
@pytest.mark.parametrize("full", FILLS)
@pytest.mark.parametrize("dry_run", [False, True])
def test_one_cleanup_frees_a_full_disk_that_has_a_trash(run: RunCommand, tmp_path: Path, full: str, dry_run: bool) -> None:
    tree = MainTree(tmp_path / "made", time.time_ns())
    trashed, due, fresh = (session_id(number) for number in range(3))
    for session, age in ((trashed, 20), (due, 10), (fresh, 0)):
        tree.session(session, files={f"f{number}": 64 * KIB for number in range(16)}, age_days=age)
    config = tmp_path / "settings.toml"
    config.write_text("[maintenance.cleanup]\ntrash_days = 3\n")
    disk = tmp_path / "disk"
    disk.mkdir()
    probe = "sh -c 'echo x > workstreams/probe' 2>/dev/null"
    common = f"--config {config} --base-path {disk}/made"
    script = (
        f"mount -t tmpfs -o size=6m,nr_inodes=200,mode=755 tmpfs {disk} && cp -a {tree.root} {disk}/ && cd {disk}/made && "
        f"{COMMAND} scratch-cleanup --older-than-days 15 --format none {common} && "
        f'{{ ({FILLS[full]}) 2>/dev/null || true; }} && ! {probe}; "$@" && ' + ("! " if dry_run else "") + probe
    )
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    done = run("scratch-cleanup", *shlex.split(common), *(["--dry-run"] if dry_run else []), prefix=prefix)
    assert done.code == 0, done.stderr
    assert done.removed() == {due}
    assert f"session {trashed} from the trash before its time" in done.stderr
    assert cast("int", done.last["bytes_freed"]) >= MIB


def test_more_sessions_go_the_oldest_first_and_the_removal_limit_holds(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    for name, age in (("oldest", 5), ("middle", 4), ("newest", 3)):
        tree.session(name, files={"f": MIB}, age_days=age)
    config = tmp_path / "settings.toml"
    settings = "[maintenance.cleanup]\ntrash_days = 3\nprotect = ['sess-*']\nmax_total = '1MiB'\n"
    config.write_text(settings + "max_sessions = 1\n")
    plan = tmp_path / "plan.json"
    dry = clean(run, tree, "--config", config, "--older-than-days", 9, "--dry-run", "--plan-out", plan)
    assert {entry["session_id"] for entry in json.loads(plan.read_text())["sessions"] if entry["reason"] == "over_budget"} == {"oldest"}
    done = clean(run, tree, "--config", config, "--older-than-days", 9)
    for each in (dry, done):
        assert each.code == 1
        assert {name: reason for name, reason in each.reasons().items() if name in ("oldest", "middle", "newest")} == dict.fromkeys(
            ("oldest", "middle", "newest"), "over_budget"
        )
        assert "max_total = 1MiB" in each.stderr
        assert "2 over_budget" in each.stderr
        assert cast("int", each.last["over_budget_bytes"]) >= MIB
    assert dry.sessions("would_delete") == done.sessions("deleted") == {"oldest"}
    assert not (tree.sessions / "oldest").exists()


def test_a_plan_that_a_budget_made_is_carried_out_and_nothing_else(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    for name, age in (("oldest", 5), ("middle", 4), ("newest", 3)):
        tree.session(name, files={"f": MIB}, age_days=age)
    config, plan = tmp_path / "settings.toml", tmp_path / "plan.json"
    config.write_text("[maintenance.cleanup]\nprotect = ['sess-*']\nmax_total = '2500KiB'\n")
    arguments = ("--config", config, "--older-than-days", 9)
    assert clean(run, tree, *arguments, "--dry-run", "--plan-out", plan).sessions("would_delete") == {"oldest"}
    tree.session("more", files={"f": MIB}, age_days=6)
    done = clean(run, tree, *arguments, "--apply", plan, "-v")
    assert done.sessions("deleted") == {"oldest"}
    assert done.code == 1, "the budget needs more than the plan allows"
    assert "does not exist any more" not in done.stderr


def test_a_check_that_turns_critical_starts_the_cleanup_once(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text("[maintenance.pressure]\ntotal = '10KiB'\n[maintenance.cleanup]\ncleanup_on = 'critical'\n")
    tree.session("large", files={"f": MIB}, age_days=0)
    tree.session("due", files={"f": 1}, age_days=30)
    arguments = ("disk-check", "--config", config, "--base-path", tree.root, "--format", "json")
    assert not run(*arguments, "--dry-run").of_type("scratch_cleanup"), "a dry run starts nothing"
    request = tmp_path / "request"
    other = {"STATE_DIRECTORY": str(tmp_path / "other")}
    assert not run(*arguments, ARAWN_CLEANUP_REQUEST=str(request), **other).of_type("scratch_cleanup")
    assert request.exists(), "a unit that may not remove anything asks for it"
    request.unlink()
    run(*arguments, ARAWN_CLEANUP_REQUEST=str(request), **other)
    assert not request.exists(), "once"

    first = run(*arguments)
    assert [event["type"] for event in first.events][-1] == "scratch_cleanup"
    assert first.removed() == {"due"}
    tree.session("old", files={"f": 1}, age_days=30)
    assert not run(*arguments).of_type("scratch_cleanup"), "once"
    assert (tree.sessions / "old").exists()


def test_a_check_that_loses_an_event_starts_the_cleanup_that_a_full_disk_needs(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    """No event can be stored, and the relay cannot be reached."""
    config, state = tmp_path / "settings.toml", tmp_path / "state"
    relay = "[maintenance.relay]\nurl = 'http://127.0.0.1:9/'\ndeadline_secs = 0.1\n"
    config.write_text(f"[maintenance.pressure]\ntotal = 10\n[maintenance.cleanup]\ncleanup_on = 'critical'\n{relay}")
    state.touch()
    tree.session("due", files={"f": 1000}, age_days=30)
    done = run("disk-check", "--config", config, "--base-path", tree.root, "--format", "json", STATE_DIRECTORY=str(state))
    assert (done.code, done.removed()) == (69, {"due"}), done.stderr


@needs_namespaces
@pytest.mark.parametrize(
    ("mount", "counts"),
    [
        ("mount -t tmpfs tmpfs blog/production/m && head -c 5m /dev/zero > blog/production/m/f", False),
        ("mount --bind /usr/bin blog/production/m", False),
        ("mount --bind {outside} {root}/workstreams/other", False),
        ("cp -a scratch/sessions {outside} && mount --bind {outside}/sessions scratch/sessions", True),
        ("cp -a scratch {outside} && mount -t tmpfs -o mode=755 tmpfs scratch && cp -a {outside}/scratch/. scratch", True),
    ],
)
def test_what_others_mounted_is_in_no_budget(run: RunCommand, tree: SampleTree, tmp_path: Path, mount: str, counts: bool) -> None:
    tree.session("old", files={"f": 3 * MIB}, age_days=5)
    (tree.workstreams / "other").mkdir()
    (tree.workstreams / "blog/production/m").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "large").write_bytes(b"x" * 5 * MIB)
    config = tmp_path / "settings.toml"
    budget = "2MiB" if counts else "4MiB"
    config.write_text(f"[maintenance.cleanup]\nprotect = ['sess-*']\nmax_total = '{budget}'\n[maintenance.pressure]\ntotal = 0\n")
    script = f'cd {tree.workstreams} && {mount.format(outside=outside, root=tree.root)} && cd / && exec "$@"'
    done = clean(run, tree, "--config", config, "--older-than-days", 9, prefix=("unshare", "--mount", "sh", "-ec", script, "sh"))
    assert (done.code, done.removed()) == (0, {"old"} if counts else set()), done.stderr
