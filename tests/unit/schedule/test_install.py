"""Where schedules are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from arawn_cli.schedule.install import Place, apply_removal, require_access
from arawn_cli.schedule.managed_files import FileStore, SchedulerMissingError, with_header
from arawn_cli.schedule.places import Scheduler, Scope
from arawn_cli.schedule.systemd import Manager


def test_a_machine_without_a_directory_for_cron_has_no_cron(tmp_path: Path) -> None:
    place = Place(Scheduler.CRON, Scope.USER, FileStore(tmp_path / "cron.d", ("arawn-cli",)), None)
    with pytest.raises(SchedulerMissingError, match="sudo apt-get install cron") as raised:
        require_access(place)
    assert raised.value.exit_code == 2


def test_a_path_unit_is_stopped_though_the_timers_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(Manager, "call", lambda _self, *arguments: called.append(arguments))
    monkeypatch.setattr(Manager, "is_running", lambda _self: True)
    name = "arawn-cleanup-on-critical.path"
    (tmp_path / name).write_text(with_header("x\n"))
    place = Place(Scheduler.SYSTEMD, Scope.SYSTEM, FileStore(tmp_path, (name,)), Manager(Scope.SYSTEM))
    apply_removal(place, place.store.changes_to_remove())
    assert called[:2] == [("disable", name), ("stop", name)]
    assert not (tmp_path / name).exists()
