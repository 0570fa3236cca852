"""Every place that holds timers of the tool's, and the state that they keep."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.config import Config, Flags
from arawn_cli.errors import ArawnCliError, ConfigurationError
from arawn_cli.schedule.changes import TangledError
from arawn_cli.schedule.effective import settings_from
from arawn_cli.schedule.history import remembers, state_of
from arawn_cli.schedule.installation import Place, place_of
from arawn_cli.schedule.settings import Scheduler, Scope, Settings
from arawn_cli.schedule.status import installed_anywhere
from arawn_cli.schedule.units import state_name
from arawn_cli.state_file import StateUnavailableError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Installed:
    """A place with timers in it, and what they would be rendered from now; `tangled` says why they cannot be told apart."""

    place: Place
    settings: Settings
    tangled: str | None = None

    @property
    def is_made_by_systemd(self) -> bool:
        """Whether systemd makes the state directory."""
        by_systemd = self.place.scheduler is Scheduler.SYSTEMD and self.place.scope is Scope.SYSTEM
        return by_systemd and state_name(self.settings) is not None


def installed_places(config: Config, flags: Flags, environment: Mapping[str, str]) -> list[Installed]:
    """Every place that holds timers of the tool's, the machine's first.

    Raises:
        RefusedError: without a root nothing can be compared.
    """
    found = []
    for scope in Scope:
        try:
            settings = settings_from(config, flags, environment, scope)
        except ConfigurationError as error:  # the root is no account's, so that the machine has no timers for it
            log.debug("%s", error)
            continue
        for scheduler in Scheduler:
            place = place_of(scheduler, scope, settings, environment, config.root_name)
            try:
                if installed_anywhere(place):
                    found.append(Installed(place, settings))
            except TangledError as error:
                found.append(Installed(place, settings, str(error)))
            except ArawnCliError as error:
                log.debug("%s", error)
    return found


def kept_by_timers(config: Config, flags: Flags, environment: Mapping[str, str]) -> tuple[Path, str | None]:
    """The state directory that tells of a root's past, and a sentence where the timers' is out of reach.

    It is this shell's own, unless timers remember the root elsewhere.
    """
    own = config.state_directory
    if config.maintenance.state_dir or environment.get("STATE_DIRECTORY"):
        return own, None
    try:
        found = installed_places(config, flags, environment)
    except ArawnCliError as error:
        log.debug("%s", error)
        return own, None
    for each in found:
        directory = state_of(each.place.scheduler, each.settings, config)
        try:
            if remembers(directory, each.settings.root):
                return directory, None
        except StateUnavailableError:
            return own, (
                f"the timers keep their history in {directory}, which this account cannot read: "
                f"trends and alerts are those of its own runs; {' '.join(('sudo arawn-cli report', *flags.named))} shows theirs"
            )
    return own, None
