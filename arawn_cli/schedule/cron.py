"""Write crontab lines."""

from __future__ import annotations

import psutil

from arawn_cli.schedule.intervals import cron_time
from arawn_cli.schedule.quoting import cron_command, cron_line, refuse_unprintable
from arawn_cli.schedule.settings import Job, Scope, Settings

CRON_FILE = "arawn-cli"
START_CRON = "service cron start"


def cron_file(settings: Settings) -> str:
    """Return a file for /etc/cron.d. The sixth field of its lines names the account.

    Raises:
        ConfigurationError: cron has no times for an interval, or a line cannot hold a path.
    """
    return (
        "# Only warnings and errors are logged, so cron mails only problems. Results go to the system log.\n"
        "# The jobs run as the account that runs the Arawn server and owns its data.\n"
        "SHELL=/bin/sh\n"
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        "MAILTO=root\n\n"
        "# m h dom mon dow user command\n" + _lines(settings)
    )


def cron_block(settings: Settings) -> str:
    """Return lines for an account's own crontab.

    They set no variable, because it would apply to the lines below, too.

    Raises:
        ConfigurationError: cron has no times for an interval, or a line cannot hold a path.
    """
    return "# Only warnings and errors are logged, so cron mails only problems, to this account or to MAILTO.\n" + _lines(settings)


def cron_runs() -> bool:
    """Return whether a cron daemon is running."""
    return any(process.info["name"] in ("cron", "crond") for process in psutil.process_iter(["name"]))


def _lines(settings: Settings) -> str:
    return "".join(f"{cron_line(_line(settings, job))}\n" for job in settings.jobs)


def _line(settings: Settings, job: Job) -> str:
    words = [str(cron_time(job.interval, job.name, settings.host, str(settings.root)))]
    if settings.scope is Scope.SYSTEM:
        refuse_unprintable(settings.account.name, "a crontab")
        words.append(settings.account.name)
    command = (*settings.command, job.name, *settings.options, "--unless-running")
    if settings.logger is None:
        return " ".join([*words, cron_command((*command, "--format", "none"))])
    return " ".join([*words, cron_command((*command, "--format", "json")), "|", cron_command((settings.logger, "-t", job.unit))])
