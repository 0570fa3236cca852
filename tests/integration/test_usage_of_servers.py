"""What `disk-check` and `report` say about the trees and databases that running Arawn servers
wrote."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from pathlib import Path

import pytest

from tests.conftest import WITHOUT_FILE_POWERS, RunCommand, needs_setpriv, snapshot
from tests.support.arawn_servers import MAIN, MAIN_SESSIONS, V0, V0_SESSIONS, V0_WORKSTREAMS, Server, extract
from tests.support.tree import write

Areas = dict[object, tuple[object, ...]]


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Server:
    return extract(request.param, tmp_path / "server")


def usage(run: RunCommand, server: Server, *arguments: object) -> tuple[Areas, dict[str, object]]:
    """Return the title, the areas and the sessions of each workstream, and the summary of a
    check."""
    done = run("disk-check", "--base-path", server.root, *arguments, HOME=str(server.home))
    assert (done.code, done.stderr) == (0, "")
    keys = ("workstream_name", "production_bytes", "work_bytes", "other_bytes", "sessions")
    return {event["workstream_id"]: tuple(event[key] for key in keys) for event in done.of_type("workstream_usage")}, done.last


def apparent(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("server", [*V0, *MAIN], indirect=True)
def test_total_and_own_files_are_everything_that_the_server_wrote(run: RunCommand, server: Server) -> None:
    """Also where all tables are only in the WAL: their titles were read, as the next tests show."""
    everything, workstreams = apparent(server.configuration), apparent(server.root / "workstreams")
    _, summary = usage(run, server)
    assert (summary["total_usage_bytes"], summary["own_files_bytes"]) == (workstreams, everything - workstreams)
    assert (summary["complete"], summary["foreign"]) == (True, [])


@pytest.mark.parametrize(
    ("server", "scratch", "others"),
    [
        ("v0-live", ("Scratch", 0, 440, 4377, 4), {}),
        ("v0-stopped", ("Scratch", 0, 440, 6390, 2), {V0_WORKSTREAMS["From scratch"]: ("From scratch", 0, 440, 4377, 0)}),
    ],
    indirect=["server"],
)
def test_titles_and_areas_of_0_0(run: RunCommand, server: Server, scratch: tuple[object, ...], others: Areas) -> None:
    found, _ = usage(run, server)
    stopped = bool(others)
    assert found == {
        "scratch": scratch,
        V0_WORKSTREAMS["Thesis"]: ("Thesis", 300, 1200, 6255 if stopped else 6013, 1 if stopped else 0),
        V0_WORKSTREAMS["My blog"]: ("My blog", 0, 500, 2505, 0),
        V0_WORKSTREAMS["Old stuff"]: ("Old stuff", 0, 0, 0, 0),
        **others,
    }


@pytest.mark.parametrize("server", ["v0-stock"], indirect=True)
def test_the_released_0_0_makes_no_areas(run: RunCommand, server: Server) -> None:
    found, _ = usage(run, server)
    assert {values[:3] for values in found.values()} == {
        (title, 0, 0) for title in ("Scratch", "Thesis", "My blog", "Old stuff", "From scratch")
    }


@pytest.mark.parametrize("server", ["main-live", "main-stopped"], indirect=True)
def test_titles_and_areas_of_main(run: RunCommand, server: Server) -> None:
    found, _ = usage(run, server)
    assert found == {
        "scratch": ("Scratch", 0, 6041, 192512 + 292552 + 32768, 4),
        "thesis": ("thesis", 0, 300 + 1422 + 1490, 192512 + 193672 + 32768, 2),
        "my-blog": ("my-blog", 0, 0, 192512 + 193672 + 32768, 0),
        "elsewhere": ("elsewhere", 0, 200 + 1230, 192512 + 164832 + 32768, 1),
        "tracked": ("Tracked things", 0, 0, 204800 + 168952 + 32768, 0),
    }


@pytest.mark.parametrize("server", ["main-stopped"], indirect=True)
def test_on_main_names_that_mean_something_in_0_0_are_the_agents(run: RunCommand, server: Server) -> None:
    """A copy in which the agent made such directories in a workstream, and arawn-cli keeps trash in
    scratch."""
    thesis, scratch = server.root / "workstreams" / "thesis", server.root / "workstreams" / "scratch"
    before, _ = usage(run, server)
    for path, size in {"production/f": 10, "sessions/s/work/f": 200, ".trash/f": 3000, "work/f": 40_000}.items():
        write(thesis / path, size)
    write(scratch / ".trash" / "1bac827e-bc13-4126-96a9-f7c871641ed0.20261120T000000Z.0123abcd" / "f", 500)
    found, summary = usage(run, server)
    assert found["thesis"] == ("thesis", 0, 3212 + 43_210, before["thesis"][3], 2)
    assert found["scratch"] == ("Scratch", 0, 6041, 517_832 + 500, 4)
    assert summary["trash_bytes"] == 500


@pytest.mark.parametrize("server", ["main-stopped"], indirect=True)
def test_a_limit_by_display_name_applies(run: RunCommand, server: Server, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[maintenance.pressure.limits]\n'Tracked things' = 400000\n")
    done = run("disk-check", "--base-path", server.root, "--config", config, HOME=str(server.home))
    (event,) = done.of_type("disk_pressure")
    assert (event["workstream_id"], event["workstream_name"], event["level"]) == ("tracked", "Tracked things", "warning")


# What no cleanup covers


def not_covered(run: RunCommand, server: Server) -> list[str]:
    """Return the lines of a report about what no cleanup covers: path, size, title and reason."""
    before = snapshot(server.home)
    done = run("report", "--base-path", server.root, HOME=str(server.home), COLUMNS="200")
    assert (done.code, done.stderr) == (0, "")
    assert snapshot(server.home) == before
    (text,) = re.findall(r"Not covered by any cleanup *\n(.*?)^ *\n", done.stdout, re.DOTALL | re.MULTILINE)
    return [" | ".join(re.split("  +", line.strip())) for line in text.splitlines()[1:]]


@pytest.mark.parametrize("server", ["v0-stopped"], indirect=True)
def test_sessions_of_a_promoted_scratch_and_archived_workstreams_are_listed(run: RunCommand, server: Server) -> None:
    promoted, archived = V0_WORKSTREAMS["From scratch"], V0_WORKSTREAMS["Old stuff"]
    assert not_covered(run, server) == [
        f"workstreams/{promoted}/sessions | 440 bytes | From scratch | sessions of a promoted scratch",
        f"workstreams/{archived} | 0 bytes | Old stuff | archived",
    ]


@pytest.mark.parametrize("server", ["main-stopped", "main-live"], indirect=True)
def test_files_of_a_promoted_session_that_stay_in_scratch_are_listed(run: RunCommand, server: Server) -> None:
    left = MAIN_SESSIONS["B"]
    assert not_covered(run, server) == [
        f"workstreams/scratch/{left} | 220 bytes | {left} | files of a session that belongs to a workstream"
    ]


@pytest.mark.parametrize("server", ["v0-stopped"], indirect=True)
def test_files_of_an_attached_session_and_a_workstream_without_a_row_are_listed(run: RunCommand, server: Server) -> None:
    """A copy in which B, which is attached to Thesis, has a directory, and a workstream was deleted
    from the database."""
    workstreams, attached = server.root / "workstreams", V0_SESSIONS["B"]
    write(server.scratch / attached / "work" / "f", 3000)
    write(workstreams / "deleted" / "work" / "f", 50_000)
    assert not_covered(run, server)[:2] == [
        "workstreams/deleted | 48.8 KiB | deleted | not in Arawn's database",
        f"workstreams/scratch/sessions/{attached} | 2.9 KiB | {attached} | files of a session that belongs to a workstream",
    ]


@pytest.mark.parametrize("server", ["main-stopped"], indirect=True)
def test_archived_workstreams_of_main_are_listed(run: RunCommand, server: Server) -> None:
    """A copy in which thesis is archived."""
    with contextlib.closing(sqlite3.connect(server.database)) as connection, connection:
        connection.execute("UPDATE workstreams SET archived = 1 WHERE name = 'thesis'")
    assert not_covered(run, server)[0] == "workstreams/thesis | 412.3 KiB | thesis | archived"


@pytest.mark.parametrize("server", ["v0-stopped"], indirect=True)
def test_without_a_database_no_workstream_counts_as_deleted(run: RunCommand, server: Server) -> None:
    server.database.unlink()
    (promoted,) = not_covered(run, server)
    assert promoted.startswith(f"workstreams/{V0_WORKSTREAMS['From scratch']}/sessions | ")


@pytest.mark.parametrize(
    ("server", "expected"),
    [("v0-fresh", []), ("main-fresh", []), *((name, ["0 bytes | Old stuff | archived"]) for name in ("v0-live", "v0-stock"))],
    indirect=["server"],
)
def test_a_report_on_a_tree_without_a_promoted_session(run: RunCommand, server: Server, expected: list[str]) -> None:
    assert [line.partition(" | ")[2] for line in not_covered(run, server)] == expected


# Arawn's own files


@pytest.mark.parametrize("server", ["main-stopped"], indirect=True)
def test_own_files_and_backups_are_listed(run: RunCommand, server: Server) -> None:
    """A copy with feed mirrors, logs and backups."""
    write(server.root / "data" / "mail" / "f", 3_000_000)
    write(server.root / "logs" / "arawn.log", 20_000)
    write(server.home / ".arawn-backups" / "monday.tar", 2_000)
    (server.home / ".arawn-backups" / "link").symlink_to(server.root / "data")
    text = run("report", "--base-path", server.root, HOME=str(server.home), COLUMNS="200").stdout
    assert re.search(r"^Arawn's own files +3\.9 MiB +no limit *$", text, re.MULTILINE)
    text = text.partition("Not covered")[2]
    own, _, backups = text.partition("Arawn's own files")[2].partition("Arawn's backups")
    entries = [tuple(line.split(maxsplit=1)) for line in own.splitlines()[2:] if line.strip()]
    assert entries[0] == ("data/", "2.9 MiB")
    assert {name for name, _ in entries} == {"data/", "logs/", "memory.db", "arawn.db", "projections.db", "arawn.toml", "token_usage.jsonl"}
    assert backups.startswith(f", 2.0 KiB in {server.home}/.arawn-backups")
    page = run("report", "--base-path", server.root, "--html", "-", HOME=str(server.home)).stdout
    assert "Arawn&#39;s own files" in page
    assert "monday.tar" in page


@needs_setpriv
@pytest.mark.parametrize("server", ["main-stopped"], indirect=True)
def test_backups_that_cannot_be_read_are_left_out(run: RunCommand, server: Server) -> None:
    write(server.home / ".arawn-backups" / "f", 10)
    os.chown(server.home / ".arawn-backups", 12345, 12345)
    (server.home / ".arawn-backups").chmod(0o700)
    done = run("report", "--base-path", server.root, HOME=str(server.home), prefix=WITHOUT_FILE_POWERS)
    assert done.code == 0, done.stdout
    assert "Arawn's backups" not in done.stdout


@pytest.mark.parametrize("server", ["v0-stopped", "main-live"], indirect=True)
def test_own_files_have_a_level_only_with_a_limit(run: RunCommand, server: Server, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    arguments = ("disk-check", "--base-path", server.root, "--config", config)
    config.write_text("[maintenance.pressure]\nown_files = 1000\ntotal = 1000\n")
    done = run(*arguments, HOME=str(server.home))
    size = done.last["own_files_bytes"]
    found = {event["scope"]: event for event in done.of_type("disk_pressure")}
    own = found["own_files"]
    assert (own["level"], own["usage_bytes"], own["limit_bytes"]) == ("critical", size, 1000)
    assert (own["workstream_id"], own["workstream_name"]) == ("own_files", "Arawn's own files")
    assert found["total"]["usage_bytes"] == apparent(server.root / "workstreams"), "they are not part of the total"
    config.write_text("")
    assert [event["level"] for event in run(*arguments, HOME=str(server.home)).of_type("disk_pressure")] == ["ok", "ok"]
    assert run(*arguments, HOME=str(server.home)).of_type("disk_pressure") == []
