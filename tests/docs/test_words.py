"""What the pages name as the program's - commands, options, keys, events, exit codes, modules - is
what the code has."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from arawn_cli.config.schema import ConfigFile, fields_of
from arawn_cli.errors import ExitCode
from arawn_cli.events import Event, Reason
from arawn_cli.output.schemas import EVENTS, PARTS
from tests.support.commands import PROGRAM, commands, options_of

TOP = Path(__file__).parents[2]
SOURCE = "\n".join(path.read_text() for path in sorted([*(TOP / "arawn_cli").rglob("*.py"), *(TOP / "arawn_cli").rglob("*.[ch]")]))
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").glob("*.md"), *(TOP / "contrib").rglob("*.md")])
# Every dotted key with a value.
KEYS = {key for key, field in fields_of(ConfigFile) if field.description}
# Commands of others, whose options are their own.
_OTHERS = r"^(?:[$#] )?(?:sudo )?(?!arawn-cli|\[)[a-z./][\w./-]* "


@pytest.fixture(params=PAGES, ids=[str(page.relative_to(TOP)) for page in PAGES])
def page(request: pytest.FixtureRequest) -> str:
    """The text of each page."""
    path: Path = request.param
    return path.read_text()


def code_of(text: str) -> list[str]:
    """What stands in code quotes, and each line of blocks that are no file's text."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in blocks if kind in ("", "console", "sh", "text") for line in block.splitlines()]
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [*(" ".join(each.split()) for each in re.findall(r"`([^`]+)`", outside)), *lines]


def calls_in(text: str) -> list[list[str]]:
    """The words of each call of the program, without what a shell makes of the rest of the line."""
    lines = [re.split(r" #| \| | > |;|&&", each)[0] for each in code_of(text)]
    return [line[found.start() :].split() for line in lines if (found := re.search(r"(?<![\w/.-])arawn-cli (?=[a-z-])", line))]


def test_each_command_that_a_page_calls_exists_and_takes_the_options(page: str) -> None:
    known = commands()
    for words in calls_in(page):
        command = max((name for name in known if words[: len(name.split())] == name.split()), key=len)
        rest = words[len(command.split()) :]
        given = {word.partition("=")[0].rstrip(",.") for word in rest if re.match(r"--?[a-z]", word)}
        assert given <= {*options_of(known[command]), "--help", "-h"}, words
        assert command != PROGRAM or all(word.startswith("-") for word in rest), words


def test_each_option_in_code_quotes_exists(page: str) -> None:
    every = {option for command in commands().values() for option in options_of(command)} | {"--help"}
    told = {option for each in code_of(page) if not re.match(_OTHERS, each) for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", each)}
    assert told <= every


def test_each_key_of_the_configuration_in_code_quotes_exists(page: str) -> None:
    tables = {key.rpartition(".")[0] for key in KEYS} | {"maintenance"}
    named = [match.groups() for each in code_of(page) if (match := re.match(r"\[\[?([a-z_.]+)\]\]?(?: ([a-z_]+))?", each))]
    own = [(table, key) for table, key in named if table.partition(".")[0] in ("maintenance", "paths", "workstream")]
    assert [(table, key) for table, key in own if (f"{table}.{key}" if key else table) not in KEYS | tables] == []
    dotted = {each for each in code_of(page) if re.fullmatch(r"(?:maintenance|paths|workstream)\.[a-z_.]+", each)}
    assert dotted <= KEYS | tables


def test_each_table_of_a_file_in_a_page_is_a_configuration(page: str) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        ConfigFile.model_validate(tomllib.loads(block))


def test_each_name_with_an_underscore_in_code_quotes_is_the_codes(page: str) -> None:
    """Keys of events and of the configuration, reasons, types of events, metrics: they have no
    other mark in the text."""
    parts: tuple[type, ...] = (Event, *EVENTS, *PARTS)
    events = {name for part in parts for name in get_type_hints(part)}
    kinds = {str(field.default) for kind in EVENTS for field in fields(kind) if field.name == "type"}
    keys = {part for key in KEYS for part in key.split(".")}
    # The list that tests/unit/output/test_prometheus.py holds against what is written.
    metrics = set(re.findall(r"^\| `(arawn_\w+)` \|", (TOP / "docs" / "monitoring.md").read_text(), re.MULTILINE))
    known = events | kinds | keys | metrics | {str(reason) for reason in Reason}
    told = {each for each in code_of(page) if re.fullmatch(r"(?!test_)[a-z]+(?:_[a-z]+)+", each)}
    assert {name for name in told - known if not re.search(rf"\b{name}\b", SOURCE)} == set()


def test_each_exit_code_in_the_text_is_one(page: str) -> None:
    told = re.findall(r"(?:\bexit(?: code|s with| with)?(?: is)?|\bends with|refused with|\brefused \() ?(\d+)(?: or (\d+))?", page)
    codes = {int(code) for both in told for code in both if code}
    assert codes <= {int(code) for code in ExitCode}


def test_the_searches_find_what_they_look_for() -> None:
    text = (TOP / "README.md").read_text()
    assert [PROGRAM, "schedule", "install"] in calls_in(text)
    assert {"--dry-run", "$ arawn-cli schedule install"} <= set(code_of(text))
    wrong = "`arawn-cli scratch-cleanup --dryrun` exits with 4, `trash_dayz`, `[maintenance.cleanup] trash_dayz`"
    for test in (
        test_each_command_that_a_page_calls_exists_and_takes_the_options,
        test_each_option_in_code_quotes_exists,
        test_each_key_of_the_configuration_in_code_quotes_exists,
        test_each_name_with_an_underscore_in_code_quotes_is_the_codes,
        test_each_exit_code_in_the_text_is_one,
    ):
        with pytest.raises(AssertionError):
            test(wrong)


def test_the_architecture_has_one_line_for_each_package_and_names_each_base_module() -> None:
    table = (TOP / "docs" / "architecture.md").read_text().split("\n## Packages\n")[1].split("\n## ")[0]
    packages = re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE)
    directory = TOP / "arawn_cli"
    assert sorted(packages) == sorted(path.parent.name for path in directory.glob("*/__init__.py"))
    base = next(line for line in table.splitlines() if line.startswith("| base"))
    assert set(re.findall(r"`(\w+\.py)`", base)) == {path.name for path in directory.glob("*.py")} - {"__init__.py"}


def test_the_paths_in_the_architecture_name_existing_modules_and_no_more_than_allowed() -> None:
    text = (TOP / "docs" / "architecture.md").read_text()
    for heading, limit in (("The path of a session", 20), ("The path of an alert", 15)):
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        modules = set(re.findall(r"`(\w+/\w+\.py|state\.py)`", section))
        assert {module for module in modules if not (TOP / "arawn_cli" / module).exists()} == set()
        assert len(modules) <= limit


def test_the_packages_below_cli_neither_print_nor_exit_nor_read_the_environment() -> None:
    exempt = {"cli", "doctor", "schedule", "output"}
    modules = [path for path in (TOP / "arawn_cli").rglob("*.py") if path.relative_to(TOP / "arawn_cli").parts[0] not in exempt]
    forbidden = re.compile(r"(?<![.\w])print\(|os\.environ|os\.getenv|sys\.(?:exit|std)|raise SystemExit")
    allowed = {
        "__main__.py": "starts the program",
        "context.py": "the default of RunContext.environment",
        "apprise_client.py": "answers in a child",
        "connecting.py": "the proxy that it names, as urllib does",
    }
    assert [path.name for path in modules if forbidden.search(path.read_text()) and path.name not in allowed] == []


def test_the_man_page_has_every_reason_with_its_meaning() -> None:
    page = (TOP / "docs" / "arawn-cli.1").read_text().split(".SH REASONS\n")[1].partition(".SH ")[0]
    told = re.findall(r"^\.TP\n\.B (\w+)\n\S.*\S$", page, re.MULTILINE)
    assert set(told) == {str(reason) for reason in Reason}
    assert len(told) == len(Reason)


def test_the_man_page_has_every_variable_that_the_program_reads() -> None:
    page = (TOP / "docs" / "arawn-cli.1").read_text().split(".SH ENVIRONMENT\n")[1].partition(".SH ")[0]
    told = set(re.findall(r"^\.B ([A-Z_]+)$", page, re.MULTILINE))
    assert told == {name for name in re.findall(r'"([A-Z_]+)"', SOURCE) if re.match("ARAWN_[A-Z]", name) or name.endswith("_DIRECTORY")}


def test_no_module_imports_itself_through_others() -> None:
    package = TOP / "arawn_cli"
    paths = {".".join(path.relative_to(TOP).with_suffix("").parts): path for path in package.rglob("*.py") if path.stem != "__init__"}
    imports: dict[str, set[str]] = {}
    for name, path in paths.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        found = {node.module or "" for node in nodes} | {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
        imports[name] = found & paths.keys()
    order: list[str] = []
    while free := [name for name in imports if name not in order and imports[name] <= set(order)]:
        order += free
    assert sorted(set(imports) - set(order)) == []
