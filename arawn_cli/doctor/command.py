"""The command `doctor`, from flags to exit code."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from arawn_cli import instants, names
from arawn_cli.config import Config, Flags, load
from arawn_cli.doctor.findings import Finding, Status, fail, ok, warn
from arawn_cli.doctor.means import clock_finding, outbox_finding, relay_finding, state_findings
from arawn_cli.doctor.timers import state_directory, timer_findings, token_findings
from arawn_cli.doctor.tree import tree_findings
from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.events import DoctorCheck, DoctorSummary, EffectiveSetting
from arawn_cli.origins import DEFAULT, Setting, settings_of
from arawn_cli.run import Output, guarded
from arawn_cli.schedule.effective import settings_from
from arawn_cli.schedule.installed import installed_places
from arawn_cli.schedule.settings import Scope
from arawn_cli.schedule.status import Told
from arawn_cli.sinks.stdout import json_lines

_STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


def run_doctor(flags: Flags, output: Output) -> ExitCode:
    """`doctor`: 1 when anything fails. Nothing is changed."""

    def body(_: Console) -> ExitCode:
        settings: list[Setting] = []
        try:
            config = load(flags, os.environ)
            settings = settings_of(config, flags, os.environ)
            found = [_configuration(config), *_findings(config, flags)]
        except ArawnCliError as error:
            found = [fail("configuration", str(error), "mend the file, or name another with --config; all else rests on it")]
        _print(settings, found, output)
        return ExitCode.PARTIAL if any(finding.status is Status.FAIL for finding in found) else ExitCode.DONE

    return guarded(output, body)


def _configuration(config: Config) -> Finding:
    for key in config.without_effect:
        return warn("configuration", f"[maintenance] {key} is set, and has no effect in this version", f"take it out of {config.file}")
    return ok("configuration", f"{config.file} is read" if config.file else "no file: built-in defaults")


def _findings(config: Config, flags: Flags) -> Iterator[Finding]:
    now = time.time_ns()
    tree = list(tree_findings(config, now))
    yield from tree
    if any(finding.check == "root" and finding.status is Status.FAIL for finding in tree):
        yield warn("timers", "without a root they cannot be looked at", "mend the root first")
        return
    installed = installed_places(config, flags, os.environ)
    directory = state_directory(installed, config)
    yield from state_findings(directory, made_by_systemd=bool(installed) and installed[0].is_made_by_systemd)
    yield outbox_finding(directory)
    yield relay_finding(config, os.environ)
    yield from token_findings(config, os.environ)
    yield clock_finding()
    host = socket.gethostname()
    told = {scope: Told(config, settings_from(config, flags, os.environ, scope), now, host) for scope in Scope}
    yield from timer_findings(installed, told)


def _print(settings: list[Setting], found: list[Finding], output: Output) -> None:
    match output.resolved():
        case "json":
            _print_json(settings, found)
        case "table":
            console = Console(highlight=False, soft_wrap=True)
            shown = settings if output.verbose else [setting for setting in settings if setting.source != DEFAULT]
            for setting in shown:
                console.print(
                    Text(names.escape(f"{setting.key} = {setting.value}")), Text(f"({names.escape(setting.source)})", style="dim")
                )
            for finding in found:
                console.print(_line(finding))


def _print_json(settings: list[Setting], found: list[Finding]) -> None:
    write = json_lines(sys.stdout)
    timestamp, host = instants.render(time.time_ns()), socket.gethostname()
    for each in settings:
        write(EffectiveSetting(timestamp=timestamp, host=host, dry_run=False, key=each.key, value=each.value, source=each.source))
    for finding in found:
        write(
            DoctorCheck(
                timestamp=timestamp,
                host=host,
                dry_run=False,
                check=finding.check,
                status=finding.status.value,
                detail=finding.detail,
                mend=finding.mend,
            )
        )
    passed, warned, failed = (sum(finding.status is status for finding in found) for status in Status)
    write(DoctorSummary(timestamp=timestamp, host=host, dry_run=False, ok=passed, warn=warned, fail=failed))


def _line(finding: Finding) -> Text:
    text = Text(f"{finding.status.value:<4}", style=_STYLES[finding.status])
    text.append(f"  {finding.check}: {finding.detail}", style="")
    if finding.mend is not None:
        text.append(f"\n      -> {finding.mend}", style="cyan")
    return text
