"""`config show`, `init` and `schema`: what they say is what the program does."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from arawn_cli.cli import config
from arawn_cli.cli.config import write_config
from arawn_cli.cli.demo import SampleTree
from arawn_cli.config.meanings import meanings
from arawn_cli.config.schema import ConfigFile, NamedRoot
from arawn_cli.config.template import EXAMPLES, template
from arawn_cli.errors import RefusedError
from arawn_cli.output.json_schema import config_schema, events_schema, plan_schema
from tests.conftest import COMMAND, Run
from tests.support.terminal import answered, on_a_terminal

Command = Callable[..., Run]


def keys_of(table: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in table.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
    if prefix == "maintenance.":
        yield from keys_of(NamedRoot, "maintenance.roots.")


def test_every_key_has_a_meaning_and_nothing_else_has_one() -> None:
    assert set(meanings()) == set(keys_of(ConfigFile))
    assert set(EXAMPLES) <= set(meanings())


def uncommented() -> str:
    return re.sub(r"^# (?=\[|\w+ = )", "", template(), flags=re.MULTILINE)


def test_the_written_file_says_what_holds_without_it() -> None:
    assert ConfigFile.model_validate(tomllib.loads(template())) == ConfigFile()
    said, default = (tables.model_dump() for tables in (ConfigFile.model_validate(tomllib.loads(uncommented())), ConfigFile()))
    for key in [key for key in meanings() if key not in EXAMPLES and key != "maintenance.roots"]:
        assert at(said, key) == at(default, key), key


def at(tables: dict[str, Any], key: str) -> object:
    return reduce(lambda table, name: table[name], key.split("."), tables)


def test_a_written_file_with_all_its_keys_is_read_without_a_word(run: Command, tree: SampleTree, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    text = uncommented().replace("~/.arawn", str(tree.root)).replace("/srv/lab/", f"{tmp_path}/lab/")
    file.write_text(re.sub(r"^(database|data_dir|textfile_dir|state_dir) = .*\n", "", text, flags=re.MULTILINE))
    done = run("disk-check", "--config", file, "--format", "none")
    assert (done.code, done.stderr) == (0, "")


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
    assert run("config", "init", file, "--force").code == 0
    assert file.read_text() == template()


@pytest.mark.parametrize(
    ("key", "code", "said"), [(b"\x04", 77, ": left as it is"), (b"\x03", 130, "interrupted")], ids=["Ctrl-D", "Ctrl-C"]
)
def test_init_takes_the_end_of_the_input_for_a_no_and_ends_when_interrupted(
    environment: dict[str, str], tmp_path: Path, key: bytes, code: int, said: str
) -> None:
    file = tmp_path / "config.toml"
    file.touch()
    ended, drawn = answered(environment, b"[y/N]", key, COMMAND, "config", "init", file)
    assert (ended, said in drawn.splitlines()[-1], file.read_text()) == (code, True, "")


def test_init_hides_the_systems_file_when_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, own = tmp_path / "etc.toml", tmp_path / "config" / "arawn" / "config.toml"
    system.touch()
    monkeypatch.setattr(config, "SYSTEM_FILE", system)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(RefusedError, match=re.escape(f"{system} is read as long as {own} is not there")):
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
    assert set(told) == {key for key in meanings() if not key.startswith("maintenance.roots.")}
    assert told["paths.base_path"] == (json.dumps(str(tree.root)), "--base-path")
    assert told["paths.cleanup.scratch_cleanup_days"] == ("9", str(file))
    assert told["maintenance.nice"] == ("10", "default")


def test_show_on_a_terminal_has_a_line_for_each_value(environment: dict[str, str], tree: SampleTree) -> None:
    code, drawn = on_a_terminal(environment, "config", "show", "--base-path", tree.root)
    assert code == 0
    assert 'maintenance.schedule.disk_check = "5m"' in drawn


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("", True),
        ("[llm]\nmodel = 1\n[workstream]\nother = 1\n", True),
        ('[maintenance.pressure.limits]\nblog = "5GiB"\n', True),
        ("[paths.cleanup]\nscratch_cleanup_days = 0\n", False),
        ("[paths.cleanup]\nscratch_days = 1\n", False),
        ('[maintenance.schedule]\ndisk_check = "soon"\n', False),
        ('[maintenance.schedule]\ndisk_check = "weekly"\n', True),
        ('[maintenance.pressure]\nrepeat_interval = "6 hours"\n', False),
        ('[maintenance]\nio_class = "fast"\n', False),
        ('[[maintenance.roots]]\nname = "lab"\n', False),
        ('[[maintenance.roots]]\nname = "lab"\npath = "/srv/lab"\nscratch_cleanup_days = 3\n', True),
        ('[maintenance.relay]\ntoken = "x"\n', False),
    ],
)
def test_an_editor_with_the_schema_accepts_what_the_program_accepts(
    run: Command, tree: SampleTree, tmp_path: Path, text: str, accepted: bool
) -> None:
    jsonschema.Draft202012Validator.check_schema(config_schema())
    assert jsonschema.Draft202012Validator(config_schema()).is_valid(tomllib.loads(text)) is accepted
    file = tmp_path / "config.toml"
    file.write_text(text)
    assert (run("config", "show", "--config", file, "--base-path", tree.root).code == 0) is accepted


def test_every_key_of_the_schema_has_its_meaning() -> None:
    told = json.dumps(config_schema(), ensure_ascii=False)
    assert [key for key, meaning in meanings().items() if json.dumps(meaning, ensure_ascii=False) not in told] == []
    assert "$ref" not in told
    assert "null" not in told


def test_events_fit_their_schema_and_others_do_not(run: Command, tree: SampleTree) -> None:
    tree.session("old", files={"f": 1000}, age_days=30)
    tree.workstream("blog", "Blog", {"work/f": 10})
    validator = jsonschema.Draft202012Validator(events_schema())
    validator.check_schema(events_schema())
    events = [
        *run("disk-check", "--base-path", tree.root).events,
        *run("scratch-cleanup", "--base-path", tree.root).events,
        *run("doctor", "--base-path", tree.root).events,
    ]
    assert {event["type"] for event in events} >= {"disk_check", "workstream_usage", "scratch_session", "scratch_cleanup", "doctor_check"}
    for event in events:
        validator.validate(event)
        assert not validator.is_valid({key: value for key, value in event.items() if key != "host"})
        assert not validator.is_valid({**event, "type": "something"})
        for key in {"level", "unit", "action", "reason", "status"} & event.keys():
            assert not validator.is_valid({**event, key: "something"})


def test_a_plan_fits_its_schema(run: Command, tree: SampleTree, tmp_path: Path) -> None:
    tree.session("old", files={"f": 1000}, age_days=30)
    run("scratch-cleanup", "--dry-run", "--plan-out", tmp_path / "plan.json", "--base-path", tree.root)
    plan = json.loads((tmp_path / "plan.json").read_text())
    validator = jsonschema.Draft202012Validator(plan_schema())
    validator.validate(plan)
    assert not validator.is_valid({**plan, "version": 2})


def test_the_schemas_are_printed(run: Command) -> None:
    for name, schema in {"config": config_schema(), "events": events_schema(), "plan": plan_schema()}.items():
        assert json.loads(run("config", "schema", name).stdout) == schema
