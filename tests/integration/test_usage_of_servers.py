"""What `disk-check` and `report` say about the trees and databases that running Arawn servers wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RunCommand
from tests.support.arawn_servers import MAIN, V0, V0_WORKSTREAMS, Server, extract
from tests.support.tree import write

Areas = dict[object, tuple[object, ...]]


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Server:
    return extract(request.param, tmp_path / "server")


def usage(run: RunCommand, server: Server, *arguments: object) -> tuple[Areas, dict[str, object]]:
    """Return the title, the areas and the sessions of each workstream, and the summary of a check."""
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
    """A copy in which the agent made such directories in a workstream, and arawn-cli keeps trash in scratch."""
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
