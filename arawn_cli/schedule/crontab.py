"""Lines for cron, from settings to text."""

from __future__ import annotations

import psutil

from arawn_cli.schedule.intervals import cron_time
from arawn_cli.schedule.quoting import cron_command, cron_line, refuse_unprintable
from arawn_cli.schedule.settings import Job, Scope, Settings

CRON_FILE = "arawn-cli"
START_CRON = "service cron start"


def cron_file(settings: Settings) -> str:
    """A file for /etc/cron.d, whose lines name the account in their sixth field."""
    return (
        "# What the tool logs outside a terminal is trouble alone, and cron mails it; results go to the system log.\n"
        "# Each line runs as the account that runs the Arawn server, and owns the tree.\n"
        "SHELL=/bin/sh\n"
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        "MAILTO=root\n\n"
        "# m h dom mon dow user command\n" + _lines(settings)
    )


def cron_block(settings: Settings) -> str:
    """Lines for an account's own crontab. They set no variable, which would hold for the lines after them too."""
    return "# What the tool logs outside a terminal is trouble alone, and cron mails it to this account, or to MAILTO.\n" + _lines(settings)


def cron_runs() -> bool:
    """Whether a cron is there to read them."""
    return any(process.info["name"] in ("cron", "crond") for process in psutil.process_iter(["name"]))


def _lines(settings: Settings) -> str:
    return "".join(f"{cron_line(_line(settings, job))}\n" for job in settings.jobs)


def _line(settings: Settings, job: Job) -> str:
    time = cron_time(job.interval, job.name, settings.host, str(settings.root))
    words = [str(time)]
    if settings.scope is Scope.SYSTEM:
        refuse_unprintable(settings.account.name, "a crontab")
        words.append(settings.account.name)
    command = (*settings.command, job.name, *settings.options, "--unless-running")
    if settings.logger is not None:
        return " ".join([*words, cron_command((*command, "--format", "json")), "|", cron_command((settings.logger, "-t", job.unit))])
    return " ".join([*words, cron_command((*command, "--format", "none"))])
