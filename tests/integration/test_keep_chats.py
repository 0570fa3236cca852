"""`keep_chats` on the trees of running Arawn servers: removal, restore, doctor and
configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import WITHOUT_FILE_POWERS, Run, RunCommand, needs_namespaces, needs_setpriv
from tests.support.arawn_servers import MAIN_SESSIONS, V0_SESSIONS, Server, days_before_last_day, extract
from tests.support.tree import SampleTree

DUE = {"v0-live": "AC", "main-stopped": "AC"}
IDS = {"v0-live": V0_SESSIONS, "main-stopped": MAIN_SESSIONS}


def configured(name: str, home: Path, *lines: str) -> Server:
    server = extract(name, home)
    file = server.configuration / ("config.toml" if server.is_v0 else "arawn.toml")
    old = file.read_text() if file.exists() else ""
    file.write_text("\n".join([old, "[maintenance.cleanup]", *lines, ""]))
    return server


def call(run: RunCommand, server: Server, *arguments: object) -> Run:
    return run(*arguments, HOME=str(server.home))


def clean(run: RunCommand, server: Server, *arguments: object) -> Run:
    return call(run, server, "scratch-cleanup", "--older-than-days", days_before_last_day(), *arguments)


def contents(directory: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes() for path in directory.rglob("*")}


@pytest.mark.parametrize("name", DUE)
def test_the_chat_stays_and_a_second_run_finds_nothing_to_do(run: RunCommand, tmp_path: Path, name: str) -> None:
    server = configured(name, tmp_path / "home", "keep_chats = true")
    ids = {IDS[name][letter] for letter in DUE[name]}
    before = {session: contents(server.scratch / session) for session in ids}
    planned, done, again = clean(run, server, "--dry-run"), clean(run, server), clean(run, server)
    assert (planned.code, done.code, again.code) == (0, 0, 0)
    assert planned.removed() == done.removed() == ids
    assert planned.last["bytes_freed"] == done.last["bytes_freed"]
    assert done.last["chats"] == "kept"
    assert not again.removed()
    assert not ids & set(again.reasons())
    for session in ids:
        kept = {"work": None} if server.is_v0 else {"messages.jsonl": before[session]["messages.jsonl"]}
        assert contents(server.scratch / session) == kept


def test_an_empty_work_of_0_0_is_not_counted(run: RunCommand, tmp_path: Path) -> None:
    server = configured("v0-live", tmp_path / "home", "keep_chats = true")
    assert V0_SESSIONS["E"] not in clean(run, server).reasons()
    assert (server.scratch / V0_SESSIONS["E"] / "work").is_dir()


@needs_setpriv
@pytest.mark.parametrize("name", DUE)
def test_a_read_only_session_is_removed_and_restored_with_its_mode(run: RunCommand, tmp_path: Path, name: str) -> None:
    server = configured(name, tmp_path / "home", "keep_chats = true", "trash_days = 3")
    session = IDS[name][DUE[name][0]]
    place = server.scratch / session
    before = contents(place)
    for directory in (place, place / "work") if server.is_v0 else (place,):
        directory.chmod(0o555)
    cleaned = run(*("scratch-cleanup", "--older-than-days", days_before_last_day()), prefix=WITHOUT_FILE_POWERS, HOME=str(server.home))
    assert cleaned.code == 0, cleaned.stderr
    assert session in cleaned.sessions("trashed")
    assert contents(place) != before
    assert place.stat().st_mode & 0o777 == 0o555
    restored = run("trash", "restore", session, prefix=WITHOUT_FILE_POWERS, HOME=str(server.home))
    assert restored.code == 0, restored.stderr
    assert contents(place) == before
    assert place.stat().st_mode & 0o777 == 0o555


@pytest.mark.parametrize(("name", "chats"), [("v0-live", "without_files"), ("main-stopped", "deleted")])
def test_without_keep_chats_the_whole_session_is_removed(run: RunCommand, tmp_path: Path, name: str, chats: str) -> None:
    server = configured(name, tmp_path / "home", "keep_chats = false")
    done = clean(run, server)
    assert (done.code, done.last["chats"]) == (0, chats)
    assert {IDS[name][letter] for letter in DUE[name]} <= done.removed()
    assert not {IDS[name][letter] for letter in DUE[name]} & set(os.listdir(server.scratch))


@pytest.mark.parametrize("keep", ["true", "false"])
@pytest.mark.parametrize("name", DUE)
def test_restore_brings_everything_back(run: RunCommand, tmp_path: Path, name: str, keep: str) -> None:
    server = configured(name, tmp_path / "home", f"keep_chats = {keep}", "trash_days = 3")
    session = IDS[name]["A"]
    before = contents(server.scratch / session)
    assert clean(run, server).code == 0
    assert contents(server.scratch / session if (server.scratch / session).exists() else tmp_path / "none") != before
    assert call(run, server, "trash", "restore", session).code == 0
    assert contents(server.scratch / session) == before


@pytest.mark.parametrize("name", DUE)
def test_doctor_says_that_chats_can_be_kept(run: RunCommand, tmp_path: Path, name: str) -> None:
    server = configured(name, tmp_path / "home", "keep_chats = true")
    checks = {event["check"]: event["status"] for event in call(run, server, "doctor").of_type("doctor_check")}
    assert checks["chats"] == "ok"


def test_config_show_says_that_the_default_depends_on_the_generation(run: RunCommand, tmp_path: Path) -> None:
    for line, shown in (("", "true on Arawn's main branch, false on 0.0"), ("keep_chats = false", "False")):
        server = configured("main-stopped", tmp_path / f"home-{shown}", line)
        events = {event["key"]: event for event in call(run, server, "config", "show").of_type("effective_setting")}
        assert str(events["maintenance.cleanup.keep_chats"]["value"]) == shown


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("v0-live", "Their chats can never write files again"), ("main-stopped", "Their chats are kept.")],
)
def test_the_summary_says_what_a_removal_means_for_the_chat(run: RunCommand, tmp_path: Path, name: str, sentence: str) -> None:
    server = extract(name, tmp_path / "home")
    assert sentence in " ".join(clean(run, server, "--dry-run", "--format", "table").stdout.split())


@needs_namespaces
@pytest.mark.parametrize(("free", "fit"), [(0, 0), (1, 0), (3, 1), (5, 2), (20, 3)])
def test_a_dry_run_foresees_that_no_inodes_are_left_for_the_chats(
    run: RunCommand, tree: SampleTree, tmp_path: Path, free: int, fit: int
) -> None:
    for name in ("a", "b", "c"):
        tree.session(name, files={"f": 1}, age_days=30)
    config, disk = tmp_path / "config.toml", tmp_path / "disk"
    config.write_text("[maintenance.cleanup]\nkeep_chats = true\n")
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o mode=755 tmpfs {disk} && cp -a {tree.root} {disk}/root && used=$(df --output=iused {disk} | tail -1) && "
        f'mount -o remount,nr_inodes=$((used + {free})) {disk} && exec "$@"'
    )
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    runs = [
        run("scratch-cleanup", "--config", config, "--base-path", disk / "root", *words, prefix=prefix) for words in (("--dry-run",), ())
    ]
    for done in runs:
        assert len(done.removed()) == fit, done.stderr
        assert done.code == (0 if fit == 3 else 1)
        assert done.stderr.count("no space for the directory that its chat needs") == 3 - fit
    assert runs[0].removed() == runs[1].removed()
