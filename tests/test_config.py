from __future__ import annotations

from pathlib import Path

import pytest

from arawn_cli.config import Flags, load
from arawn_cli.errors import ConfigurationError
from arawn_cli.sample_tree import SampleTree
from tests.in_process import NOWHERE

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
    assert (config.file, config.root, config.database) == (None, Path("/srv/arawn"), None)
    assert (config.older_than_days, config.dry_run) == (7, False)
    assert (config.total_limit_bytes, config.workstream_limit_bytes, config.session_limit_bytes) == (10 * GIB, GIB, 200 * 1024**2)


def test_the_first_file_of_the_search_order_is_read(home: Path, tmp_path: Path) -> None:
    def days(flags: Flags, environment: dict[str, str]) -> int:
        return load(flags, environment, system_file=system).older_than_days

    def text(number: int) -> str:
        return f"[paths]\nbase_path = '/x'\n[paths.cleanup]\nscratch_cleanup_days = {number}\n"

    system = configured(tmp_path / "etc", text(5))
    assert days(Flags(), {}) == 5
    configured(home / ".config" / "arawn", text(4))
    assert days(Flags(), {}) == 4
    environment = {"ARAWN_CONFIG_DIR": str(configured(tmp_path / "dir", text(3)).parent)}
    assert days(Flags(), environment) == 3
    environment["ARAWN_CONFIG"] = str(configured(tmp_path / "named", text(2)))
    assert days(Flags(), environment) == 2
    assert days(Flags(config=configured(tmp_path / "flag", text(1))), environment) == 1


def test_flags_win_over_the_environment_over_the_file(home: Path, tmp_path: Path) -> None:
    path = configured(tmp_path, "[paths]\nbase_path = '/file'\n[paths.cleanup]\nscratch_cleanup_days = 3\ndry_run = true\n")
    assert load(Flags(config=path), {}).root == Path("/file")
    assert load(Flags(config=path), {"ARAWN_BASE_PATH": "/env"}).root == Path("/env")
    config = load(Flags(path, "/flag", 9, dry_run=False), {"ARAWN_BASE_PATH": "/env"})
    assert (config.root, config.older_than_days, config.dry_run) == (Path("/flag"), 9, False)
    assert load(Flags(config=path), {}).dry_run is True


def test_paths_in_a_file_are_relative_to_it(home: Path, tmp_path: Path) -> None:
    (tmp_path / "my.db").touch()
    path = configured(tmp_path, "[workstream]\ndata_dir = 'tree'\ndatabase = 'my.db'\n")
    config = load(Flags(config=path), {})
    assert (config.root, config.database) == (tmp_path / "tree", tmp_path / "my.db")


def test_the_root_is_found_where_a_tree_is(home: Path, tmp_path: Path) -> None:
    path = configured(tmp_path, "")
    with pytest.raises(ConfigurationError, match="no Arawn root found"):
        load(Flags(config=path), {})
    SampleTree(tmp_path / "workstreams", 0)
    assert load(Flags(config=path), {}).root == tmp_path / "workstreams"
    SampleTree(home / ".arawn", 0)
    assert load(Flags(config=path), {}).root == home / ".arawn"


def test_limits_are_sizes(home: Path, tmp_path: Path) -> None:
    path = configured(tmp_path, "[paths]\nbase_path='/x'\n[maintenance.pressure.limits]\na = '5GiB'\nb = '1.5 MB'\nc = 700\n")
    assert load(Flags(config=path), {}).maintenance.pressure.limits == {"a": 5 * GIB, "b": 1_500_000, "c": 700}
