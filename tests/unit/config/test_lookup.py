"""Where root and database are found: every place of an Arawn server, and no database of another
root."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from arawn_cli.config.loader import Config, Flags, load, load_all
from arawn_cli.config.lookup import NoRootError, RootNotFoundError
from arawn_cli.errors import ConfigurationError
from tests.support.in_process import NOWHERE

LINE = '{"session_id":"a","timestamp":"2026-03-04T05:06:07Z"}\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".config" / "arawn").mkdir(parents=True)
    return tmp_path / "home"


def tree(path: Path) -> Path:
    (path / "workstreams" / "scratch").mkdir(parents=True)
    return path


def database(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE workstreams(id TEXT, title TEXT)")
    return path


def configured(home: Path, text: str) -> Path:
    path = home / ".config" / "arawn" / "config.toml"
    path.write_text(text)
    return path


def loaded(base_path: Path | None = None, **environment: str) -> Config:
    return load(Flags(base_path=None if base_path is None else str(base_path)), environment, system_file=NOWHERE)


def database_of(config: Config) -> Path | None:
    return next((path for path in config.databases if path.exists()), None)


def test_every_place_of_a_server_is_searched(home: Path, tmp_path: Path) -> None:
    places: dict[Path, tuple[str, dict[str, str]]] = {
        home / ".config" / "arawn" / "workstreams": ("", {}),
        home / ".arawn": ("", {}),
        tmp_path / "data": ("", {"ARAWN_DATA_DIR": str(tmp_path / "data")}),
        tmp_path / "dir" / "workstreams": ("", {"ARAWN_CONFIG_DIR": str(tmp_path / "dir")}),
        home / ".config" / "arawn" / "own": ('workstream.data_dir = "own"', {}),
        tmp_path / "documented": (f'paths.base_path = "{tmp_path}/documented"', {}),
        tmp_path / "storage": (f'storage.data_dir = "{tmp_path}/storage"', {}),
        home / "named": ('maintenance.root = "~/named"', {}),
    }
    for path, (text, environment) in places.items():
        configured(home, text)
        if not text.startswith("maintenance"):
            with pytest.raises(NoRootError, match="arawn-cli demo"):
                loaded(None, **environment)
        tree(path)
        assert loaded(None, **environment).root == path
        shutil.rmtree(path)


def test_the_configuration_directory_is_arawns_and_not_that_of_xdg(home: Path, tmp_path: Path) -> None:
    tree(tmp_path / "xdg" / "arawn" / "workstreams")
    (tmp_path / "xdg" / "arawn" / "config.toml").write_text("not TOML")
    expected = tree(home / ".config" / "arawn" / "workstreams")
    assert loaded(XDG_CONFIG_HOME=str(tmp_path / "xdg")).root == expected


def test_several_roots_are_refused_and_listed_with_their_newest_message(home: Path, tmp_path: Path) -> None:
    first, second, third = tree(home / ".config" / "arawn" / "workstreams"), tree(home / ".arawn"), tree(tmp_path / "data")
    (first / "workstreams" / "scratch" / "messages.jsonl").write_text(f"{LINE.replace('2026', '2025')}damaged\n{LINE}{{}}\n")
    session = second / "workstreams" / "scratch" / "098ee2f4-32b5-411e-a7ec-e73a77d25aed"
    session.mkdir()
    (session / "messages.jsonl").write_text('{"_version":1}\n')
    os.utime(session / "messages.jsonl", (1_700_000_000, 1_700_000_000))
    with pytest.raises(RootNotFoundError) as error:
        loaded(ARAWN_DATA_DIR=str(third))
    summary, *lines = str(error.value).splitlines()
    assert summary.startswith("3 folders can be Arawn's root: ")
    assert "--base-path, ARAWN_BASE_PATH or [maintenance] root" in summary
    assert lines == [
        f"  {first}: newest message 2026-03-04T05:06:07.000000Z",
        f"  {third}: no message",
        f"  {second}: newest message 2023-11-14T22:13:20.000000Z",
    ]
    for chosen in (first, second):
        assert loaded(chosen).root == loaded(ARAWN_BASE_PATH=str(chosen)).root == chosen
        configured(home, f'maintenance.root = "{chosen}"')
        assert loaded().root == chosen


def test_one_root_by_two_ways_is_one(home: Path, tmp_path: Path) -> None:
    expected = tree(home / ".arawn")
    (tmp_path / "link").symlink_to(expected)
    configured(home, f'workstream.data_dir = "{tmp_path}/link"\npaths.base_path = "~/.arawn"')
    assert loaded(ARAWN_DATA_DIR=str(expected)).root == tmp_path / "link"


def test_a_named_root_is_no_candidate_for_the_main_root(home: Path) -> None:
    expected = tree(home / ".arawn")
    lab = tree(home / ".config" / "arawn" / "workstreams")
    configured(home, f'[[maintenance.roots]]\nname = "lab"\npath = "{lab}"\n')
    assert [config.root for config in load_all(Flags(), {}, system_file=NOWHERE)] == [expected, lab]
    configured(home, f'[[maintenance.roots]]\nname = "lab"\npath = "{lab}"\n[[maintenance.roots]]\nname = "b"\npath = "~/.arawn"\n')
    assert [config.root_name for config in load_all(Flags(), {}, system_file=NOWHERE)] == ["lab", "b"]


def test_a_new_server_has_an_empty_root_beside_its_database(home: Path) -> None:
    root = home / ".config" / "arawn" / "workstreams"
    root.mkdir()
    with pytest.raises(NoRootError):
        loaded()
    path = database(home / ".config" / "arawn" / "workstreams.db")
    assert (loaded().root, database_of(loaded())) == (root, path)
    (root / "file").touch()
    with pytest.raises(NoRootError):
        loaded()


def test_the_database_of_0_0_is_beside_its_configuration(home: Path, tmp_path: Path) -> None:
    path = database(home / ".config" / "arawn" / "workstreams.db")
    root = tree(home / ".config" / "arawn" / "workstreams")
    assert database_of(loaded()) == path
    assert database_of(loaded(root)) == path
    elsewhere = tree(tmp_path / "elsewhere")
    configured(home, f'workstream.data_dir = "{elsewhere}"')
    assert database_of(loaded(elsewhere)) == path
    assert database_of(loaded(tree(tmp_path / "other"))) is None


def test_a_database_belongs_to_one_root_only(home: Path, tmp_path: Path) -> None:
    database(home / ".config" / "arawn" / "workstreams.db")
    named = database(tmp_path / "named" / "any.db")
    of_server = tree(home / ".config" / "arawn" / "workstreams")
    of_main = tree(home / ".arawn")
    configured(home, f'workstream.database = "{named}"')
    assert database_of(loaded(of_server)) == named
    assert database_of(loaded(of_main)) is None
    configured(home, f'[maintenance]\nroot = "{of_main}"\n')
    assert database_of(loaded()) is None
    configured(home, f'[maintenance]\nroot = "{of_main}"\ndatabase = "{named}"\n')
    assert database_of(loaded()) == named
    assert database_of(loaded(of_main)) == named  # as timers name it
    assert database_of(loaded(of_server)) != named
    configured(home, f'[maintenance]\ndatabase = "{named}"\n')  # of which one?
    assert database_of(loaded(of_main)) is None


def test_a_file_can_say_that_there_is_no_database(home: Path) -> None:
    database(home / ".config" / "arawn" / "workstreams.db")
    root = tree(home / ".config" / "arawn" / "workstreams")
    configured(home, f'[maintenance]\ndatabase = ""\n[[maintenance.roots]]\nname = "lab"\npath = "{tree(home / "lab")}"\ndatabase = ""\n')
    database(home / "lab" / "workstreams.db")
    assert [config.databases for config in load_all(Flags(), {}, system_file=NOWHERE)] == [(), ()]
    assert loaded(root).databases == ()


def test_a_configured_database_is_relative_to_the_file_and_must_exist(home: Path) -> None:
    tree(home / ".arawn")
    configured(home, 'maintenance.database = "own.db"')
    with pytest.raises(ConfigurationError, match=r"\[maintenance\] database: .*/.config/arawn/own.db does not exist"):
        loaded()
    path = database(home / ".config" / "arawn" / "own.db")
    assert loaded().databases == (path,)


def test_limits_are_whole_numbers_or_any_size_and_zero_is_none(home: Path) -> None:
    tree(home / ".arawn")
    configured(home, "[paths.usage]\ntotal_warning_gb = 0\nworkstream_warning_gb = 3\nsession_warning_mb = 7\n")
    config = loaded()
    assert (config.total_limit_bytes, config.workstream_limit_bytes, config.session_limit_bytes) == (0, 3 * 1024**3, 7 * 1024**2)
    configured(
        home,
        "[paths.usage]\ntotal_warning_gb = 2\n[maintenance.pressure]\ntotal = '0.5GiB'\nworkstream = '0'\nsession = 700\n"
        f"[[maintenance.roots]]\nname = 'lab'\npath = '{tree(home / 'lab')}'\ntotal_warning_gb = 4\nsession = '1kB'\n",
    )
    main, lab = load_all(Flags(), {}, system_file=NOWHERE)
    assert (main.total_limit_bytes, main.workstream_limit_bytes, main.session_limit_bytes) == (1024**3 // 2, 0, 700)
    assert (lab.total_limit_bytes, lab.workstream_limit_bytes, lab.session_limit_bytes) == (4 * 1024**3, 0, 1000)


def test_the_state_is_in_the_home_or_where_xdg_or_systemd_say(home: Path, tmp_path: Path) -> None:
    tree(home / ".arawn")
    assert loaded().state_directory == home / ".local" / "state" / "arawn-cli"
    assert loaded(XDG_STATE_HOME="/xdg").state_directory == Path("/xdg/arawn-cli")
    assert loaded(XDG_STATE_HOME="relative").state_directory == home / ".local" / "state" / "arawn-cli"
    assert loaded(XDG_STATE_HOME="/xdg", STATE_DIRECTORY="/a:/b").state_directory == Path("/a")
