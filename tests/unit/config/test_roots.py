"""Roots in the configuration: what each inherits and says of its own, and what is wrong with
one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import tomli_w

from arawn_cli.config.loader import Config, Flags, load, settings_of
from arawn_cli.errors import ConfigurationError
from tests.conftest import RunCommand
from tests.support.tree import SampleTree
from tests.support.two_roots import lab

__all__ = ["lab"]

GIB = 1024**3
MAIN = {"cleanup": {"scratch_cleanup_days": 10}}


def written(path: Path, *roots: Mapping[str, object], **tables: object) -> Path:
    path.write_text(tomli_w.dumps({"paths": MAIN, **tables, "maintenance": {"root": "/srv/arawn", "roots": list(roots)}}))
    return path


def of_lab(path: Path, base_path: str | None = None, older_than_days: int | None = None) -> Config:
    return load(Flags(config=path, base_path=base_path, older_than_days=older_than_days, root="lab"), {"HOME": "/home/me"})


def wrong(path: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        load(Flags(config=path), {})
    return str(error.value)


def test_what_a_root_does_not_say_is_inherited_and_what_protects_is_added(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    maintenance = {
        "root": "/srv/arawn",
        "nice": 3,
        "cleanup": {"protect": ["keep-*"], "trash_days": 4, "max_sessions": 9, "max_total": "5GiB", "min_free_percent": 7},
        "pressure": {"for_checks": 2, "limits": {"blog": "1GiB", "thesis": "2GiB"}},
    }
    own = {
        "scratch_cleanup_days": 30,
        "total_warning_gb": 50,
        "limits": {"thesis": "8GiB"},
        "protect": ["lab-*"],
        "max_total": "0",
        "keep_last": 3,
    }
    path.write_text(tomli_w.dumps({"paths": MAIN, "maintenance": {**maintenance, "roots": [{"name": "lab", "path": "/lab", **own}]}}))
    config = of_lab(path)
    assert (config.root, config.root_name, config.older_than_days) == (Path("/lab"), "lab", 30)
    assert (config.total_limit_bytes, config.workstream_limit_bytes) == (50 * GIB, GIB)
    assert config.maintenance.pressure.limits == {"blog": GIB, "thesis": 8 * GIB}
    assert config.maintenance.cleanup.protect == ("keep-*", "lab-*")
    assert (config.maintenance.nice, config.maintenance.cleanup.trash_days, config.maintenance.pressure.for_checks) == (3, 4, 2)
    cleanup = config.maintenance.cleanup
    assert (cleanup.max_total, cleanup.min_free_percent, cleanup.keep_last, cleanup.min_age_days) == (0, 7, 3, 1)
    main = load(Flags(config=path), {})
    assert (main.maintenance.cleanup.max_total, main.maintenance.cleanup.keep_last) == (5 * GIB, 0)
    assert (main.root, main.root_name, main.total_limit_bytes) == (Path("/srv/arawn"), None, 10 * GIB)
    assert main.maintenance.cleanup.protect == ("keep-*",)
    assert of_lab(path, base_path="/elsewhere").root == Path("/lab")
    assert of_lab(path, older_than_days=2).older_than_days == 2


def test_each_value_of_a_named_root_names_its_source(tmp_path: Path) -> None:
    other = {"name": "other", "path": "/other", "protect": ["x"]}
    path = written(
        tmp_path / "c.toml",
        other,
        {"name": "lab", "path": "/lab", "session_warning_mb": 7, "protect": ["y"]},
        workstream={"data_dir": "x"},
    )
    config = load(Flags(config=path, root="lab"), {})
    found = {setting.key: (setting.value, setting.source) for setting in settings_of(config, {"ARAWN_BASE_PATH": "/env"})}
    assert found["maintenance.root"] == ("/lab", f"{path}: maintenance.roots[1].path")
    assert found["paths.usage.session_warning_mb"] == (7, f"{path}: maintenance.roots[1].session_warning_mb")
    protect = (["y"], f"{path}: maintenance.cleanup.protect and maintenance.roots[1].protect")
    assert found["maintenance.cleanup.protect"] == protect
    assert found["paths.cleanup.scratch_cleanup_days"] == (10, str(path))
    assert found["maintenance.database"] == (None, "default")
    assert found["paths.usage.total_warning_gb"] == (10, "default")


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"path": "srv/lab"}, "maintenance.roots[1].path: found 'srv/lab'; allowed: an absolute path, or one that begins with ~"),
        ({"database": "lab.db"}, "maintenance.roots[1].database: found 'lab.db'; allowed: an absolute path"),
        ({"name": "-x"}, "maintenance.roots[1].name: found '-x'"),
        ({"name": "a/b"}, "maintenance.roots[1].name: found 'a/b'"),
        ({"name": "x" * 65}, "maintenance.roots[1].name: found 'xxx"),
        (
            {"name": "one"},
            "maintenance.roots[1].name: found 'one'; allowed: a name that no other root has, but maintenance.roots[0].name has the same",
        ),
        (
            {"path": "/one/../one/"},
            "maintenance.roots[1].path: found '/one/../one/'; allowed: a path that no other root has, but maintenance.roots[0].path",
        ),
        ({"path": "/srv/arawn"}, "a path that no other root has, but maintenance.root has the same"),
        (
            {"path": "/one/workstreams/scratch/sessions/x/work"},
            "allowed: a path that is not below the workstreams of maintenance.roots[0].path",
        ),
        ({"database": "/one/workstreams.db"}, "allowed: a database that no other root has, but maintenance.roots[0].path has the same"),
        ({"database": "/srv/arawn/workstreams.db"}, "a database that no other root has, but maintenance.root has the same"),
        ({"scratch_cleanup_days": 0}, "maintenance.roots[1].scratch_cleanup_days: found 0"),
        ({"scratch_cleanup_day": 3}, "scratch_cleanup_day: unknown key; the nearest known key is maintenance.roots.scratch_cleanup_days"),
        ({"trash_days": 3}, "maintenance.roots[1].trash_days: unknown key; the nearest known key is maintenance.cleanup.trash_days"),
        ({"limits": {"x": 0}}, "maintenance.roots[1].limits.x: found 0; allowed: a size above zero"),
    ],
)
def test_a_wrong_root_is_a_fault_of_the_file_with_its_dotted_path(tmp_path: Path, own: dict[str, object], said: str) -> None:
    entry = {"name": "two", "path": "/two", **own}
    assert said in wrong(written(tmp_path / "c.toml", {"name": "one", "path": "/one"}, entry))


def test_all_faults_of_all_roots_are_told_at_once(run: RunCommand, tree: SampleTree, tmp_path: Path) -> None:
    path = written(tmp_path / "c.toml", {"name": "a", "path": "/a"}, {"name": "a", "path": "b", "pth": 1}, {"name": "", "path": "/a"})
    done = run("scratch-cleanup", "--config", path, "--base-path", tree.root)
    assert (done.code, "5 errors" in done.stderr, done.stdout) == (78, True, "")
    for where in ("[1].name", "[1].path", "[1].pth", "[2].name", "[2].path"):
        assert done.stderr.count(f"  maintenance.roots{where}: ") == 1


def test_a_path_below_home_is_the_homes_of_who_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = written(tmp_path / "c.toml", {"name": "lab", "path": "~/lab"})
    assert of_lab(path).root == tmp_path / "lab"


def test_timers_whose_account_has_another_home_are_told_to_write_it_out(run: RunCommand, lab: SampleTree, tmp_path: Path) -> None:
    lab.root.rename(tmp_path / "home" / "lab")
    path = written(tmp_path / "c.toml", {"name": "lab", "path": "~/lab"})
    words = ("schedule", "show", "--systemd", "--config", path, "--root", "lab")
    assert f"--config {path} --root lab\n" in run(*words, "--user").stdout
    done = run(*words, "--system", PYTHONPATH="")  # the account has its own home again
    assert (done.code, "path of the root lab begins with ~" in done.stderr) == (78, True)
