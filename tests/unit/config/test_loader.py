from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
import typer

from arawn_cli.cli.cleanup import scratch_cleanup
from arawn_cli.cli.options import Format
from arawn_cli.config.loader import Flags, load
from arawn_cli.config.lookup import ignored_config_warning
from arawn_cli.errors import ConfigurationError
from arawn_cli.units import size
from tests.conftest import needs_root
from tests.support.in_process import NOWHERE
from tests.support.tree import SampleTree

GIB = 1024**3


def configured(directory: Path, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.toml"
    path.write_text(text)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_defaults_are_arawns(home: Path) -> None:
    config = load(Flags(base_path="/srv/arawn"), {}, system_file=NOWHERE)
    assert (config.file, config.root) == (None, Path("/srv/arawn"))
    assert config.databases == (Path("/srv/arawn/workstreams.db"), Path("/srv/arawn/arawn.db"), Path("/srv/workstreams.db"))
    assert (config.older_than_days, config.dry_run) == (7, False)
    assert (config.total_limit_bytes, config.workstream_limit_bytes, config.session_limit_bytes) == (10 * GIB, GIB, 200 * 1024**2)


def test_the_first_file_of_the_search_order_is_read(home: Path, tmp_path: Path) -> None:
    def days(flags: Flags, environment: dict[str, str]) -> int:
        return load(flags, environment, system_file=system).older_than_days

    def text(number: int) -> str:
        return f"[maintenance]\nroot = '/x'\n[paths.cleanup]\nscratch_cleanup_days = {number}\n"

    system = configured(tmp_path / "etc", text(5))
    assert days(Flags(), {}) == 5
    configured(home / ".config" / "arawn", text(4))
    assert days(Flags(), {}) == 4
    (home / ".arawn").mkdir()
    of_main = home / ".arawn" / "arawn.toml"
    of_main.write_text(text(6))
    assert days(Flags(), {}) == 4
    named = tmp_path / "data" / "arawn.toml"
    named.parent.mkdir()
    named.write_text(text(7))
    assert days(Flags(), {"ARAWN_DATA_DIR": str(named.parent)}) == 4
    (home / ".config" / "arawn" / "config.toml").unlink()
    assert days(Flags(), {}) == 6
    assert days(Flags(), {"ARAWN_DATA_DIR": str(named.parent)}) == 7
    of_main.unlink()
    assert days(Flags(), {}) == 5
    environment = {"ARAWN_CONFIG_DIR": str(configured(tmp_path / "dir", text(3)).parent)}
    assert days(Flags(), environment) == 3
    environment["ARAWN_CONFIG"] = str(configured(tmp_path / "named", text(2)))
    assert days(Flags(), environment) == 2
    assert days(Flags(config=configured(tmp_path / "flag", text(1))), environment) == 1


def test_flags_win_over_the_environment_over_the_file(home: Path, tmp_path: Path) -> None:
    path = configured(tmp_path, "[maintenance]\nroot = '/file'\n[paths.cleanup]\nscratch_cleanup_days = 3\ndry_run = true\n")
    assert load(Flags(config=path), {}).root == Path("/file")
    assert load(Flags(config=path), {"ARAWN_BASE_PATH": "/env"}).root == Path("/env")
    config = load(Flags(config=path, base_path="/flag", older_than_days=9, dry_run=False), {"ARAWN_BASE_PATH": "/env"})
    assert (config.root, config.older_than_days, config.dry_run) == (Path("/flag"), 9, False)
    assert load(Flags(config=path), {}).dry_run is True


def test_paths_in_a_file_are_relative_to_it(home: Path, tmp_path: Path) -> None:
    (tmp_path / "my.db").touch()
    (tmp_path / "tree" / "workstreams").mkdir(parents=True)
    path = configured(tmp_path, "[workstream]\ndata_dir = 'tree'\ndatabase = 'my.db'\n")
    config = load(Flags(config=path), {})
    assert (config.root, config.databases) == (tmp_path / "tree", (tmp_path / "my.db",))


def test_the_root_is_found_where_a_tree_is(home: Path, tmp_path: Path) -> None:
    path = configured(tmp_path, "")
    with pytest.raises(ConfigurationError, match="no Arawn root found"):
        load(Flags(config=path), {})
    tree = SampleTree(tmp_path / "workstreams", 0)
    found = load(Flags(config=path), {})
    assert (found.root, found.root_source) == (tree.root, "default")


def test_limits_are_sizes(home: Path, tmp_path: Path) -> None:
    path = configured(tmp_path, "[maintenance]\nroot='/x'\n[maintenance.pressure.limits]\na = '5GiB'\nb = '1.5 MB'\nc = 700\nd = '500M'\n")
    assert load(Flags(config=path), {}).maintenance.pressure.limits == {"a": 5 * GIB, "b": 1_500_000, "c": 700, "d": 500 * 1024**2}


def test_limits_are_shown_as_in_the_file_and_those_of_arawns_table_with_their_unit(home: Path, tmp_path: Path) -> None:
    path = configured(
        tmp_path, "[paths.usage]\nsession_warning_mb = 4\n[maintenance]\nroot='/x'\n[maintenance.pressure]\ntotal = '1.5 TB'\n"
    )
    config = load(Flags(config=path), {})
    limits = (config.total_limit_bytes, config.workstream_limit_bytes, config.session_limit_bytes)
    assert [size(limit) for limit in limits] == ["1.5 TB", "1 GiB", "4 MiB"]


@pytest.fixture
def of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of another account, whose home is here, with Arawn's root below it."""
    home = tmp_path / "home"
    path = home / ".config" / "arawn" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("")
    (home / ".arawn" / "workstreams").mkdir(parents=True)
    for each in (path, home / ".arawn"):
        os.chown(each, 4321, 4321)
    root = pwd.struct_passwd(("root", "x", 0, 0, "", "/root", "/bin/sh"))
    other = pwd.struct_passwd(("arawn", "x", 4321, 4321, "", str(home), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda user: other if user == 4321 else root)
    for module in ("runner", "doctor"):
        monkeypatch.setattr(f"arawn_cli.cli.{module}.load_as_owner", lambda flags, _outputs=None: load(flags, os.environ))
    return path


@needs_root
@pytest.mark.parametrize("text", ["", 'paths.base_path = "~/.arawn"', 'workstream.data_dir = "~/.arawn"'])
def test_the_home_in_a_file_of_another_account_is_that_of_the_other(of_another: Path, text: str) -> None:
    of_another.write_text(f'{text}\nmaintenance.state_dir = "~/state"\n')
    home = of_another.parents[2]
    config = load(Flags(config=of_another), {"HOME": "/root"})
    assert (config.root, config.state_directory) == (home / ".arawn", home / "state")


@needs_root
def test_the_home_in_a_file_of_root_is_that_of_the_account_that_reads_it(of_another: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(of_another, 0, 0)
    monkeypatch.setenv("HOME", "/home/reader")
    of_another.write_text('maintenance.root = "~/.arawn"')
    assert load(Flags(config=of_another), {}).root == Path("/home/reader/.arawn")


@needs_root
def test_two_roots_are_told_apart_by_the_home_of_their_files_account(of_another: Path) -> None:
    root = of_another.parents[2] / ".arawn"
    of_another.write_text(f'paths.base_path = "~/.arawn"\n[[maintenance.roots]]\nname = "lab"\npath = "{root}"\n')
    with pytest.raises(ConfigurationError, match=r"paths\.base_path has the same"):
        load(Flags(config=of_another), {})


def dry_run(root: Path, config: Path | None) -> None:
    with pytest.raises(typer.Exit):
        scratch_cleanup(base_path=str(root), config=config, dry_run=True, no_relay=True, format=Format.NONE)


@needs_root
def test_a_cleanup_warns_where_the_owners_configuration_is_not_read(
    of_another: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arawn_cli.cli.runner.lower_priority", lambda _maintenance: None)  # the priorities of this process would stay low
    monkeypatch.setenv("XDG_STATE_HOME", str(of_another.parents[2] / "state"))
    root = of_another.parents[2] / ".arawn"
    said = f"{of_another} of the account that owns {root} is not read"
    by_another = configured(of_another.parents[2] / "another", "")
    for config, warned in ((None, True), (by_another, True), (of_another, False)):
        dry_run(root, config)
        assert (said in capfd.readouterr().err) == warned
    of_another.unlink()
    assert ignored_config_warning(root, None) is None


def test_an_account_that_names_another_file_for_its_own_root_is_not_warned_of_its_usual_one(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arawn_cli.cli.runner.lower_priority", lambda _maintenance: None)  # the priorities of this process would stay low
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    own = pwd.struct_passwd(("me", "x", os.geteuid(), os.getegid(), "", str(home), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _user: own)
    configured(home / ".config" / "arawn", "")
    other = configured(tmp_path / "other", "")
    root = SampleTree(home / ".arawn", 0).root
    for config, environment, warned in ((None, str(other), True), (other, "", False)):
        monkeypatch.setenv("ARAWN_CONFIG", environment)
        dry_run(root, config)
        assert ("is not read" in capfd.readouterr().err) == warned


@pytest.mark.parametrize("size", ["1,5GiB", "5,000,000", "50%", "5 - 10 GiB", "5.GiB", "5GiB/day", "GiB", "-5GiB", ""])
def test_a_size_with_anything_beside_number_and_unit_is_an_error(home: Path, tmp_path: Path, size: str) -> None:
    path = configured(tmp_path, f"[maintenance.pressure]\ntotal = '{size}'\n[maintenance.pressure.limits]\nblog = '{size}'\n")
    with pytest.raises(ConfigurationError) as raised:
        load(Flags(config=path, base_path="/srv/arawn"), {}, system_file=NOWHERE)
    assert "total" in str(raised.value)
    assert "limits.blog" in str(raised.value)
