"""Where schedules are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from arawn_cli.schedule.install import Place, require_access
from arawn_cli.schedule.managed_files import FileStore, SchedulerMissingError
from arawn_cli.schedule.places import Scheduler, Scope


def test_a_machine_without_a_directory_for_cron_has_no_cron(tmp_path: Path) -> None:
    place = Place(Scheduler.CRON, Scope.USER, FileStore(tmp_path / "cron.d", ("arawn-cli",)), None)
    with pytest.raises(SchedulerMissingError, match="sudo apt-get install cron") as raised:
        require_access(place)
    assert raised.value.exit_code == 2
