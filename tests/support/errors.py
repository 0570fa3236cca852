"""Errors as the kernel reports them."""

from __future__ import annotations

import os


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
