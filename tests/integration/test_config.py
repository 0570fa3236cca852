"""`config show`, `init` and `schema`: what they say is what the program does."""

from __future__ import annotations

import compileall
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import arawn_cli
from arawn_cli.cli import config
from arawn_cli.cli.config import write_config
from arawn_cli.config.schema import ConfigFile, fields_of
from arawn_cli.errors import RefusedError
from arawn_cli.output.schemas import config_schema, events_schema, plan_schema, template
from tests.conftest import COMMAND, Run, needs_root
from tests.support.terminal import answered, on_a_terminal
from tests.support.tree import SampleTree

Command = Callable[..., Run]


def test_a_written_file_with_all_its_keys_is_read_without_a_word(run: Command, tree: SampleTree, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    text = (
        re.sub(r"^# (?=\[|\w+ = )", "", template(), flags=re.MULTILINE)
        .replace('"/srv/arawn"', f'"{tree.root}"')
        .replace("/srv/lab/", f"{tmp_path}/lab/")
    )
    file.write_text(re.sub(r"^(database|data_dir|textfile_dir|state_dir|urls_file) = .*\n", "", text, flags=re.MULTILINE))
    done = run("disk-check", "--config", file, "--format", "none")
    assert (done.code, done.stderr) == (0, "")


@needs_root
def test_after_sudo_init_says_whose_file_it_wrote_by_default(run: Callable[..., Run], tmp_path: Path) -> None:
    told = "This file is root's. An Arawn server of another account reads its own: sudo -u ACCOUNT arawn-cli config init"
    # Without --force it would ask if this machine has a configuration for all accounts.
    assert run("config", "init", "--force", SUDO_UID="1000").stdout.splitlines()[1:] == [told]
    assert told not in run("config", "init", "--force").stdout
    assert told not in run("config", "init", tmp_path / "named.toml", SUDO_UID="1000").stdout


def test_init_writes_the_file_that_would_be_read_and_makes_its_folder(run: Command, tmp_path: Path) -> None:
    done = run("config", "init", ARAWN_CONFIG=str(tmp_path / "new" / "config.toml"))
    assert (done.code, done.stderr) == (0, "")
    assert (tmp_path / "new" / "config.toml").read_text() == template()


def test_init_leaves_a_file_that_is_there_unless_forced(run: Command, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[llm]\n")
    done = run("config", "init", file)
    assert done.code == 77
    assert "--force" in done.stderr
    assert file.read_text() == "[llm]\n"
    file.chmod(0o600)
    for number, before in enumerate(("[llm]\n", template())):
        backup = tmp_path / ("config.toml.bak.1" if number else "config.toml.bak")
        done = run("config", "init", file, "--force")
        assert (done.code, f"the previous file is {backup}\n" in done.stdout) == (0, True)
        assert (file.read_text(), backup.read_text()) == (template(), before)
    assert (tmp_path / "config.toml.bak").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("key", "code", "said"), [(b"\x04", 77, ": not changed"), (b"\x03", 130, "interrupted")], ids=["Ctrl-D", "Ctrl-C"])
def test_init_takes_the_end_of_the_input_for_a_no_and_ends_when_interrupted(
    environment: dict[str, str], tmp_path: Path, key: bytes, code: int, said: str
) -> None:
    file = tmp_path / "config.toml"
    file.touch()
    ended, drawn = answered(environment, b"[y/N]", key, COMMAND, "config", "init", file)
    assert (ended, said in drawn.splitlines()[-1], file.read_text()) == (code, True, "")


def test_init_hides_the_systems_file_only_after_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, own = tmp_path / "etc.toml", tmp_path / ".config" / "arawn" / "config.toml"
    system.touch()
    monkeypatch.setattr(config, "SYSTEM_FILE", system)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(RefusedError, match=re.escape(f"{system} is in effect only while {own} does not exist")):
        write_config(None, None, overwrite=False)
    with pytest.raises(RefusedError):
        write_config(None, lambda _question: False, overwrite=False)
    assert not own.exists()
    write_config(None, lambda _question: True, overwrite=False)
    assert own.read_text() == template()
    own.unlink()
    write_config(None, None, overwrite=True)
    assert own.read_text() == template()
    write_config(tmp_path / "other.toml", None, overwrite=False)
    assert (tmp_path / "other.toml").read_text() == template()


def test_init_takes_a_dangling_link_for_a_file_that_is_there(run: Command, tmp_path: Path) -> None:
    link = tmp_path / "config.toml"
    link.symlink_to(tmp_path / "elsewhere.toml")
    assert run("config", "init", link).code == 77
    assert not (tmp_path / "elsewhere.toml").exists()


def test_init_without_a_folder_says_so_and_prints_for_a_dash(run: Command, tmp_path: Path) -> None:
    done = run("config", "init", tmp_path / "missing" / "config.toml")
    assert done.code == 78
    assert len(done.stderr.splitlines()) == 1
    assert run("config", "init", "-").stdout == template()


def test_show_tells_each_value_its_source_and_no_secret(run: Command, tree: SampleTree, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[maintenance.relay]\nurl = "https://user:hunter2@relay.example/pub?key=hunter3"\n[paths.cleanup]\nscratch_cleanup_days = 9\n'
    )
    done = run("config", "show", "--config", file, "--base-path", tree.root)
    assert done.code == 0
    assert "hunter" not in done.stdout + done.stderr
    told = {str(event["key"]): (event["value"], event["source"]) for event in done.of_type("effective_setting")}
    assert set(told) == {key for key, field in fields_of(ConfigFile) if field.description and not key.startswith("maintenance.roots.")}
    assert told["maintenance.root"] == (str(tree.root), "--base-path")
    assert told["paths.cleanup.scratch_cleanup_days"] == (9, str(file))
    assert told["maintenance.nice"] == (10, "default")


def test_show_on_a_terminal_has_a_line_for_each_value(environment: dict[str, str], tree: SampleTree) -> None:
    code, drawn = on_a_terminal(environment, "config", "show", "--base-path", tree.root)
    assert code == 0
    assert 'maintenance.schedule.disk_check = "5m"' in drawn


def test_the_schemas_are_printed(run: Command) -> None:
    for name, schema in {"config": config_schema(), "events": events_schema(), "plan": plan_schema()}.items():
        assert json.loads(run("config", "schema", name).stdout) == schema


def test_init_and_schema_work_without_the_source_of_the_program(environment: dict[str, str], tmp_path: Path) -> None:
    package = tmp_path / "lib" / "arawn_cli"
    shutil.copytree(Path(arawn_cli.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(package, quiet=1, legacy=True)
    for source in package.rglob("*.py"):
        source.unlink()

    def output(*words: str) -> str:
        command = [sys.executable, "-m", "arawn_cli", "config", *words]
        return subprocess.run(
            command, env={**environment, "PYTHONPATH": str(tmp_path / "lib")}, check=True, capture_output=True, text=True
        ).stdout

    assert output("init", "-") == template()
    assert json.loads(output("schema", "config")) == config_schema()
    assert json.loads(output("schema", "events")) == events_schema()
