"""The commands of `config`, from flags to exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from arawn_cli import names
from arawn_cli.config import Flags, load
from arawn_cli.config_file import SYSTEM_FILE, find, own_file
from arawn_cli.errors import ConfigurationError, ExitCode, RefusedError
from arawn_cli.origins import settings_of
from arawn_cli.reference.schemas import SCHEMAS
from arawn_cli.reference.settings import print_settings, print_settings_as_events
from arawn_cli.reference.template import template
from arawn_cli.run import Output, guarded
from arawn_cli.sinks.stdout import printing
from arawn_cli.whole_file import WholeFile

_STANDARD_OUTPUT = Path("-")


def run_config_show(flags: Flags, output: Output) -> ExitCode:
    """`config show`: every effective value with its source."""

    def body(_: Console | None) -> ExitCode:
        config = load(flags, os.environ)
        settings = settings_of(config, flags, os.environ)
        with printing():
            match output.resolved():
                case "json":
                    print_settings_as_events(settings, config.root_name)
                case "table":
                    print_settings(settings, Console(highlight=False, soft_wrap=True))
        return ExitCode.DONE

    return guarded(output, body)


def run_config_init(file: Path | None, output: Output, ask: Callable[[str], bool] | None, *, overwrite: bool) -> ExitCode:
    """`config init`: writes the commented file, or prints it for `-`. `ask` is None where nobody can be asked."""

    def body(_: Console | None) -> ExitCode:
        if file == _STANDARD_OUTPUT:
            with printing():
                sys.stdout.write(template())
            return ExitCode.DONE
        path = own_file(os.environ) if file is None else file
        if not overwrite:
            in_effect = find(None, os.environ, SYSTEM_FILE) if file is None else None
            _require_consent(path, in_effect, ask)
        if file is None:
            _make_folder(path.parent)
        WholeFile(path, "the configuration").write(template())
        with printing():
            sys.stdout.write(f"wrote {names.escape(str(path))}: every key with its default, commented out\n")
        return ExitCode.DONE

    return guarded(output, body)


def run_config_schema(of: str, output: Output) -> ExitCode:
    """`config schema`: the JSON Schema of the file, the events or the plan."""

    def body(_: Console | None) -> ExitCode:
        with printing():
            sys.stdout.write(json.dumps(SCHEMAS[of](), indent=2) + "\n")
        return ExitCode.DONE

    return guarded(output, body)


def _require_consent(path: Path, in_effect: Path | None, ask: Callable[[str], bool] | None) -> None:
    """Asks before a file is replaced, or before a new one keeps the one that is in effect from being read."""
    if os.path.lexists(path):
        problem, question = f"{path} is there", "and Arawn may read it too. Replace all of it?"
    elif in_effect not in (None, path):
        problem, question = f"{in_effect} is read as long as {path} is not there", "and would be no more. Write it?"
    else:
        return
    if ask is None:
        raise RefusedError(f"{problem}: left as it is; --force writes it all the same, and `arawn-cli config init -` prints the text")
    if not ask(names.escape(f"{problem}, {question}")):
        raise RefusedError(f"{problem}: left as it is")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder {path}: {error.strerror}") from error
