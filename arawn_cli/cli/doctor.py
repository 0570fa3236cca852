"""The command `doctor`, from flags to exit code."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from arawn_cli import timestamps
from arawn_cli.cli.config import print_settings, print_settings_as_events
from arawn_cli.cli.options import (
    BasePathOption,
    ConfigOption,
    Format,
    FormatOption,
    NoRelayOption,
    Output,
    QuietOption,
    RelayUrlOption,
    RootOption,
    VerboseOption,
)
from arawn_cli.cli.terminal import configure_logging
from arawn_cli.config.loader import Config, Flags, load
from arawn_cli.config.paths import unread, unread_file
from arawn_cli.config.roots import names_of
from arawn_cli.config.sources import DEFAULT, Setting, settings_of
from arawn_cli.doctor.environment import clock_finding, outbox_finding, relay_finding, state_findings, token_findings
from arawn_cli.doctor.findings import ROOT, Finding, Shell, comment, fail, ok, warn
from arawn_cli.doctor.timers import run_command, state_directory, timer_findings
from arawn_cli.doctor.tree import tree_findings
from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.events import DoctorCheck, DoctorSummary, JobName, Status
from arawn_cli.output.jsonl import json_lines, printing
from arawn_cli.schedule.settings import own_account
from arawn_cli.schedule.status import InstalledPlace, installed_places

_MEND_FILE = comment("fix the file, or choose another with --config or a root with --base-path; the other checks depend on it")


_STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


def doctor(
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    output: FormatOption = Format.AUTO,
    relay_url: RelayUrlOption = None,
    no_relay: NoRelayOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find what would stop the timers from working, and how to fix it. Change nothing; exit with 1 if a check fails."""
    flags = Flags(config=config, base_path=base_path, relay_url=relay_url, no_relay=no_relay, root=root)
    raise typer.Exit(run_doctor(flags, Output(format=output, verbose=verbose, quiet=quiet)))


def run_doctor(flags: Flags, output: Output) -> ExitCode:
    """`doctor`: 1 when anything fails. Nothing is changed."""
    configure_logging(output)
    settings: list[Setting] = []
    try:
        config = load(flags, os.environ)
        settings = settings_of(config, flags, os.environ)
        shell = Shell(config, flags, os.environ)
        found = [*_configuration(config, shell), *_findings(config, shell)]
    except ArawnCliError as error:
        found = [fail("configuration", str(error), _MEND_FILE)]
    with printing():
        _print(settings, found, output, flags.root)
    return ExitCode.PARTIAL if any(finding.status is Status.FAIL for finding in found) else ExitCode.DONE


def _configuration(config: Config, shell: Shell) -> Iterator[Finding]:
    own, problem = unread_file(config.root, config.file), unread(config.root, config.file)
    if own is not None and problem is not None:
        yield warn("configuration of the owner", problem, _mend_unread(own, config, shell))
    if config.dry_run:
        yield warn(
            "configuration", "[paths.cleanup] dry_run is true: scratch-cleanup removes nothing", comment(f"take it out of {config.file}")
        )
    else:
        others = names_of(config.tables) if config.root_name is None else ""
        more = f"; it names other roots, and --root looks at each: {others}" if others else ""
        yield ok("configuration", f"{config.file} is read{more}" if config.file else "no file: built-in defaults")


def _mend_unread(own: Path, config: Config, shell: Shell) -> str:
    named = Flags(config=own, base_path=str(config.root.absolute()))
    line = replace(shell, flags=Flags()).arawn_cli(
        "doctor", *named.located, account=None if os.access(own, os.R_OK) else ROOT, located=False
    )
    return f"{line}  # then schedule install with the same options"


def _findings(config: Config, shell: Shell) -> Iterator[Finding]:
    now = time.time_ns()
    tree = list(tree_findings(config, now, shell))
    yield from tree
    rooted = not any(finding.check == "root" and finding.status is Status.FAIL for finding in tree)
    installed = installed_places(config, shell.flags, shell.environment) if rooted else []
    yield from _means(config, installed, shell)
    if rooted:
        yield from timer_findings(installed, config, now, socket.gethostname(), shell)
    else:
        yield warn("timers", "not checked: the root is unusable", comment("fix the root first"))


def _means(config: Config, installed: list[InstalledPlace], shell: Shell) -> Iterator[Finding]:
    first = installed[0] if installed else None
    directory = state_directory(installed, config)
    account = first.settings.account if first else own_account()
    yield from state_findings(directory, account, shell, created_by_systemd=first is not None and first.is_state_created_by_systemd)
    yield outbox_finding(directory, shell, run_command(first, JobName.DISK_CHECK, shell) if first else shell.arawn_cli(JobName.DISK_CHECK))
    yield relay_finding(config, shell.environment, shell)
    yield from token_findings(config, shell.environment)
    yield clock_finding(shell)


def _print(settings: list[Setting], found: list[Finding], output: Output, root: str | None) -> None:
    match output.resolved():
        case "json":
            _print_json(settings, found, root)
        case "table":
            console = Console(highlight=False, soft_wrap=True)
            shown = settings if output.verbose else [setting for setting in settings if setting.source != DEFAULT]
            print_settings(shown, console)
            for finding in found:
                console.print(_line(finding))


def _print_json(settings: list[Setting], found: list[Finding], root: str | None) -> None:
    print_settings_as_events(settings, root)
    write = json_lines(sys.stdout)
    timestamp, host = timestamps.render(time.time_ns()), socket.gethostname()
    for finding in found:
        write(
            DoctorCheck(
                timestamp=timestamp,
                host=host,
                root=root,
                dry_run=False,
                check=finding.check,
                status=finding.status,
                detail=finding.detail,
                fix=finding.fix,
            )
        )
    passed, warned, failed = (sum(finding.status is status for finding in found) for status in Status)
    write(DoctorSummary(timestamp=timestamp, host=host, root=root, dry_run=False, ok=passed, warn=warned, fail=failed))


def _line(finding: Finding) -> Text:
    text = Text(f"{finding.status.value:<4}", style=_STYLES[finding.status])
    text.append(f"  {finding.check}: {finding.detail}", style="")
    if finding.fix is not None:
        text.append(f"\n      -> {finding.fix}", style="cyan")
    return text
