"""Standing back behind the work that the disk is for."""

from __future__ import annotations

import logging

import psutil

from arawn_cli.config_tables import Maintenance

log = logging.getLogger(__name__)


# Within best-effort, where psutil's own default would be the highest.
_LOWEST = 7


def stand_back(maintenance: Maintenance) -> None:
    """Lowers this process's processor and disk priority as configured; neither is ever raised.

    What may not be changed, as in some containers, stays as it is, and does not keep the other from being changed.
    """
    process = psutil.Process()
    for lower in (_lower_processor, _lower_disk):
        try:
            lower(process, maintenance)
        except (psutil.Error, OSError) as error:
            log.info("priorities stay as they are: %s", error)


def _lower_processor(process: psutil.Process, maintenance: Maintenance) -> None:
    if process.nice() < maintenance.nice:
        process.nice(maintenance.nice)


def _lower_disk(process: psutil.Process, maintenance: Maintenance) -> None:
    if maintenance.io_class == "none" or not hasattr(psutil, "IOPRIO_CLASS_IDLE"):
        return
    idle, best_effort = psutil.IOPRIO_CLASS_IDLE, psutil.IOPRIO_CLASS_BE
    found = process.ionice().ioclass
    # What a unit has set already is not set again: the call may be one that the unit forbids.
    if maintenance.io_class == "idle" and found != idle:
        process.ionice(idle)
    elif maintenance.io_class == "best-effort" and found not in (idle, best_effort):
        process.ionice(best_effort, _LOWEST)
