"""Standing back behind the work that the disk is for."""

from __future__ import annotations

import logging

import psutil

from arawn_cli.config_tables import Maintenance

log = logging.getLogger(__name__)


def stand_back(maintenance: Maintenance) -> None:
    """Lowers this process's processor and disk priority as configured; it is never raised."""
    process = psutil.Process()
    try:
        if process.nice() < maintenance.nice:
            process.nice(maintenance.nice)
        if maintenance.io_class != "none" and hasattr(psutil, "IOPRIO_CLASS_IDLE"):
            wanted = psutil.IOPRIO_CLASS_IDLE if maintenance.io_class == "idle" else psutil.IOPRIO_CLASS_BE
            # What a unit has set already is not set again: the call may be one that the unit forbids.
            if process.ionice().ioclass != wanted:
                process.ionice(wanted)
    except (psutil.Error, OSError) as error:
        log.info("priorities stay as they are: %s", error)
