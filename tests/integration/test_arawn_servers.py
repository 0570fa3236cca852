"""Root, layout and database of the trees that running servers wrote, found without any option."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import RunCommand
from tests.support.arawn_servers import KEYS, MAIN, V0, Server, days_before_last_day, extract

COMMANDS = ("scratch-cleanup", "disk-check", "report")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def checks(run: RunCommand, *words: str) -> dict[str, dict[str, object]]:
    return {str(event["check"]): event for event in run("doctor", *words).of_type("doctor_check")}


@pytest.mark.parametrize("name", [*V0, *MAIN])
def test_every_server_is_found_without_options(run: RunCommand, home: Path, name: str) -> None:
    server = extract(name, home)
    shown = {event["key"]: event["value"] for event in run("config", "show").events}
    assert shown["maintenance.root"] == str(server.root)
    assert shown["maintenance.database"] == str(server.database)
    found = checks(run)
    assert {check: found[check]["status"] for check in ("root", "arawn", "database")} == dict.fromkeys(("root", "arawn", "database"), "ok")
    assert str(found["arawn"]["detail"]).startswith("found Arawn 0.0" if server.is_v0 else "found Arawn (main branch)")
    assert "supported are Arawn 0.0 (tag v0.0.0) and Arawn's main branch" in str(found["arawn"]["detail"])
    done = run("scratch-cleanup", "--dry-run", "--older-than-days", days_before_last_day())
    assert (done.code, done.stderr) == (0, "")
    assert run("disk-check").code == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [("v0-fresh", "is new, and has no workstreams yet"), ("v0-stock", "has created no directories for scratch sessions")],
)
def test_why_a_server_has_no_sessions_is_told(run: RunCommand, home: Path, name: str, said: str) -> None:
    extract(name, home)
    done = run("scratch-cleanup", "--verbose")
    assert (done.code, done.last["sessions_checked"], said in done.stderr) == (0, 0, True)
    assert done.last["no_sessions"] == f"This Arawn 0.0 {said}"
    assert f"This Arawn 0.0 {said}." in " ".join(run("scratch-cleanup", "--format", "table").stdout.split())
    assert said in str(checks(run)["arawn"]["detail"])


@pytest.mark.parametrize("name", ["v0-live", "main-live"])
def test_a_configuration_with_all_that_arawn_documents_is_accepted(run: RunCommand, home: Path, name: str) -> None:
    server = extract(name, home)
    root, database, is_v0 = server.root, server.database, server.is_v0
    (home / ".config" / "arawn").mkdir(parents=True, exist_ok=True)
    text = KEYS.read_text()
    (home / ".config" / "arawn" / "config.toml").write_text(text if is_v0 else text.replace("data_dir", "other_dir"))
    shown = {event["key"]: event["value"] for event in run("config", "show").events}
    assert (shown["maintenance.root"], shown["maintenance.database"]) == (str(root), str(database))
    done = run("scratch-cleanup", "--older-than-days", days_before_last_day())
    assert (done.code, done.stderr, done.last["dry_run"]) == (0, "", True)


def test_a_configured_directory_that_is_missing_is_a_finding(run: RunCommand, home: Path) -> None:
    server = extract("v0-stopped", home)
    (server.configuration / "config.toml").write_text('[workstream]\ndata_dir = "/nonexistent/disk"\n')
    found = checks(run)["data_dir"]
    assert (found["status"], str(server.root) in str(found["detail"])) == ("warn", True)


def both(home: Path) -> tuple[Server, Server]:
    return extract("v0-stopped", home / "v0"), extract("main-stopped", home / "main")


def test_two_servers_of_one_account_are_refused_until_one_is_named(run: RunCommand, home: Path) -> None:
    v0, main = both(home)
    shutil.move(v0.home / ".config", home / ".config")
    shutil.move(main.home / ".arawn", home / ".arawn")
    roots = {home / ".config" / "arawn" / "workstreams": "Arawn 0.0", home / ".arawn": "Arawn (main branch)"}
    for command in COMMANDS:
        done = run(command)
        assert (done.code, done.stdout) == (78, "")
        for root in roots:
            assert f"  {root}: newest message 2026-11-20T" in done.stderr
        assert "[maintenance] root" in done.stderr
    assert (run("doctor").code, checks(run)["root"]["status"]) == (1, "fail")
    for root, generation in roots.items():
        assert str(checks(run, "--base-path", str(root))["arawn"]["detail"]).startswith(f"found {generation}")
        (home / ".config" / "arawn" / "config.toml").write_text(f'[maintenance]\nroot = "{root}"\n')
        assert run("scratch-cleanup", "--dry-run").code == 0
        assert str(checks(run)["arawn"]["detail"]).startswith(f"found {generation}")


def test_a_directory_with_neither_layout_is_refused_by_every_command(run: RunCommand, home: Path) -> None:
    (home / ".arawn" / "workstreams" / "photos" / "2024").mkdir(parents=True)
    (home / ".arawn" / "workstreams" / "photos" / "2024" / "a.jpg").touch()
    for words in (*((command,) for command in COMMANDS), ("trash", "list"), ("trash", "purge", "--all"), ("schedule", "show")):
        done = run(*words)
        assert (done.code, done.stdout, "neither generation of Arawn" in done.stderr) == (78, "", True), words
    found = checks(run)
    assert (run("doctor").code, found["root"]["status"]) == (1, "fail")
    assert "neither generation of Arawn" in str(found["root"]["detail"])


def test_timers_name_the_root_that_was_found(run: RunCommand, home: Path) -> None:
    server = extract("v0-stopped", home)
    for words in (("--systemd", "--user"), ("--cron", "--user")):
        shown = run("schedule", "show", *words).stdout
        assert shown.replace("%h", str(home)).count(f" --base-path {server.root}") == 2
