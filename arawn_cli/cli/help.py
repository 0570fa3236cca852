"""The help of the commands, and hints for a command line that names none.

Each option takes one line if possible: a help should fit on a screen of 24 lines and 80 columns.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

if TYPE_CHECKING:
    from typer._click.core import Context, Parameter
    from typer._click.formatting import HelpFormatter

_GROUPS = {
    "Root and configuration": ("config", "base_path", "root"),
    "Output": ("format", "check_format", "report_format", "relay_url", "no_relay", "verbose", "quiet"),
}
"""Groups of options by the names of their values. Other options belong to the command alone."""

_UNLISTED = ("help", "json")
"""Options without a line in the help of a command: the line of `--format` names `--json`."""

_EXAMPLES = 3

_SYNONYMS = {
    "status": ("disk-check",),
    "usage": ("disk-check", "report"),
    "clean": ("scratch-cleanup",),
    "remove": ("scratch-cleanup",),
    "delete": ("scratch-cleanup",),
    "undo": ("trash restore",),
    "help": ("--help",),
    "version": ("--version",),
}
"""Words that people try, with their likely meaning."""

TOPICS = """\
Environment: ARAWN_CONFIG, ARAWN_CONFIG_DIR, ARAWN_DATA_DIR, ARAWN_BASE_PATH,
  ARAWN_RELAY_TOKEN, NO_COLOR (man arawn-cli explains them)
Exit codes: 0 done, 1 partly done, 2 bad option, 3 --fail-on, 69 event lost,
  70 bug, 75 locked, 77 refused, 78 configuration or root, 130 and 143 stopped
"""


def examples() -> dict[str, dict[str, str]]:
    """Return examples of each command: a line as it is typed, with its purpose."""
    from importlib.resources import files  # only a help needs it

    found: dict[str, dict[str, str]] = tomllib.loads((files("arawn_cli.cli") / "examples.toml").read_text("utf-8"))
    return found


def write_help(command: TyperCommand | TyperGroup, ctx: Context, formatter: HelpFormatter) -> None:
    """Write usage, description, commands, grouped options and examples."""
    formatter.write(f"{ctx.get_usage()}\n")
    command.format_help_text(ctx, formatter)
    formatter.write("\n")
    if isinstance(command, TyperGroup):
        formatter.write("Commands:\n")
        _write_rows(formatter, [(name, _first_sentence(each.help)) for name, each in command.commands.items()])
    parameters: list[Parameter] = command.get_params(ctx)
    is_group = isinstance(command, TyperGroup)
    unlisted = ("show_completion",) if is_group else _UNLISTED
    listed = [each for each in parameters if isinstance(each, (TyperOption, TyperArgument)) and each.name not in unlisted]
    group_of = {} if is_group else {name: title for title, names in _GROUPS.items() for name in names}
    width = max(len(_names(each)) for each in listed)
    for title in ("Options", *_GROUPS):
        if rows := [(_names(each), each.help or "") for each in listed if group_of.get(each.name or "", "Options") == title]:
            formatter.write(f"{title}:\n")
            _write_rows(formatter, rows, width)
    if ctx.parent is not None and (lines := examples().get(ctx.command_path)):
        formatter.write("Examples:\n")
        for line, text in list(lines.items())[:_EXAMPLES]:
            shown = f"  {line}  # {text}"
            formatter.write(f"{shown if len(shown) <= formatter.width else f'  {line}'}\n")


def _write_rows(formatter: HelpFormatter, rows: Sequence[tuple[str, str]], width: int = 0) -> None:
    """Write names beside texts, which are wrapped."""
    width = max(width, *(len(name) for name, _ in rows))
    with formatter.indentation():
        formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=width)


def _names(option: TyperOption | TyperArgument) -> str:
    """Return an option or argument as it is written: `-c, --config PATH`."""
    metavar = option.metavar or ""
    return metavar if isinstance(option, TyperArgument) else f"{', '.join(sorted(option.opts, key=len))} {metavar}".rstrip()


def _first_sentence(text: str | None) -> str:
    return (text or "").partition("\n\n")[0].replace("\n", " ")


def paths(group: TyperGroup, before: str = "") -> Iterator[str]:
    """Yield every command below a group as it is typed: `disk-check`, `trash list`."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from paths(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def other_commands(group: TyperGroup, word: str) -> list[str]:
    """Return the commands that a word may mean which names none."""
    found = [path for path in paths(group) if word in path.split() or (len(word) > 3 and word in path)]
    return list(dict.fromkeys((*_SYNONYMS.get(word, ()), *found)))


def misplaced_option(group: TyperGroup, arguments: Sequence[str]) -> str | None:
    """Return a hint if options that belong to a command stand before it."""
    name = next((word for word in arguments if word in group.commands), None)
    if name is None or not arguments[0].startswith("-") or arguments[0] in ("--version", "-V", "--help", "-h"):
        return None
    others = list(arguments)
    others.remove(name)
    return f"options stand after the command: arawn-cli {shlex.join((name, *others))}"
